// The inspector. Everything that a model wrote goes into the page as text (textContent), never as markup.
'use strict';
(() => {
const source = document.getElementById('data');
if (!source) return;
const {runs, pieces, groups} = JSON.parse(source.textContent);
const $ = id => document.getElementById(id);
const PAGE = 50;

const rows = [];
groups.forEach((group, g) => group.rows.forEach((row, r) => {
  const text = row.text ?? row.tokens.map(t => pieces[t][1] ?? '').join('');
  const outcome = row.verdicts.map(v => v[0] + ': ' + v[1]).join(', ');
  rows.push({group, g, row, r, text, outcome, step: group.step, id: group.id, reward: row.reward, length: row.length});
}));
const state = {page: 0, chosen: null};

function make(name, attributes, ...inside) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) element.setAttribute(key, value);
  element.append(...inside);
  return element;
}
function draw(name, attributes, text) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}
const digits = x => x === null || x === undefined ? '–' : String(+x.toPrecision(4));
const option = (value, text) => make('option', {value}, text);

// ---- the list

runs.forEach((name, i) => $('run').append(option(i, name)));
$('run').prepend(option('', 'all'));
$('run').value = '';
$('run-label').hidden = runs.length < 2;
const outcomes = new Set(rows.flatMap(({row}) => row.verdicts.map(v => v[0] + ': ' + v[1])));
$('outcome').append(option('', 'any'), option('!', 'truncated'), option('?', 'left out'),
  ...[...outcomes].sort().map(name => option('=' + name, name)));

function filtered() {
  const number = id => $(id).value === '' ? null : Number($(id).value);
  const [from, to, low, high] = ['from', 'to', 'low', 'high'].map(number);
  const run = $('run').value, outcome = $('outcome').value, text = $('text').value.toLowerCase();
  const keep = rows.filter(x =>
    (run === '' || x.group.run === Number(run)) &&
    (from === null || x.step >= from) && (to === null || x.step <= to) &&
    (low === null || (x.reward !== null && x.reward >= low)) &&
    (high === null || (x.reward !== null && x.reward <= high)) &&
    (outcome === '' || (outcome === '!' && x.row.truncated) || (outcome === '?' && !x.row.live) ||
      x.row.verdicts.some(v => '=' + v[0] + ': ' + v[1] === outcome)) &&
    (text === '' || x.id.toLowerCase().includes(text) || x.text.toLowerCase().includes(text) ||
      x.group.prompts.some(p => p.toLowerCase().includes(text))));
  const key = $('sort').value, sign = $('down').checked ? -1 : 1;
  const order = (a, b) => a === b ? 0 : a === null ? 1 : b === null ? -1 : (a < b ? -sign : sign);
  return keep.sort((a, b) => order(a[key], b[key]) || a.g - b.g || a.r - b.r);
}

function list() {
  const found = filtered();
  state.page = Math.max(0, Math.min(state.page, Math.ceil(found.length / PAGE) - 1));
  const start = state.page * PAGE, shown = found.slice(start, start + PAGE);
  $('count').textContent = found.length + ' of ' + rows.length + ' completions';
  $('place').textContent = found.length ? (start + 1) + ' to ' + (start + shown.length) : 'none';
  $('back').disabled = start === 0;
  $('forth').disabled = start + PAGE >= found.length;
  $('rows').tBodies[0].replaceChildren(...shown.map(x => {
    const cell = (text, kind) => make('td', kind ? {class: kind} : {}, text);
    const line = make('tr', {tabindex: 0, class: x === state.chosen ? 'chosen' : ''},
      cell(String(x.step), 'n'), cell(x.id), cell(digits(x.reward), 'n'),
      cell(x.outcome + (x.row.truncated ? ', truncated' : '') + (x.row.live ? '' : ', left out')),
      cell(String(x.length), 'n'), cell(x.text.slice(0, 160)));
    line.onclick = () => { show(x); remember(); };
    line.onkeydown = event => { if (event.key === 'Enter') line.onclick(); };
    return line;
  }));
}

// ---- a group

// Blue for less, vermillion for more: apart for any colour vision.
const colour = share => (share < 0 ? 'rgba(0,114,178,' : 'rgba(213,94,0,') + Math.min(Math.abs(share), 1) * 0.75 + ')';
const MODES = {
  advantage: {label: 'advantage', signed: true},
  log_ratio: {label: 'log ratio to the sampler', signed: true},
  surprise: {label: 'surprise: −log-prob of the sampler'},
  none: {label: 'nothing'},
};
const COLUMN = 'column ';  // and its name: a mode for each column of config.log.columns
const how = mode => MODES[mode] || {label: mode.slice(COLUMN.length), signed: true};
function values(row, mode) {
  const found = mode.startsWith(COLUMN) ? (row.columns || {})[mode.slice(COLUMN.length)] : row[mode === 'surprise' ? 'logp' : mode];
  if (found === undefined) return null;
  const every = Array.isArray(found) ? found : row.tokens.map(() => found);
  return mode === 'surprise' ? every.map(x => x === null ? null : -x) : every;
}

function show(x) {
  state.chosen = x;
  list();
  const group = x.group, live = group.rows.filter(r => r.live && r.reward !== null);
  const mean = live.length ? live.reduce((sum, r) => sum + r.reward, 0) / live.length : null;
  $('group').hidden = false;
  $('group-title').textContent = (runs.length > 1 ? runs[group.run] + ', ' : '') + 'step ' + group.step +
    ', ' + group.id + ': mean reward ' + digits(mean) + ' over ' + live.length + ' completions';
  $('prompts').replaceChildren(...group.prompts.map(p => make('pre', {}, p)),
    make('p', {class: 'small'}, 'reference answer: ' + group.answer +
      (group.left_out ? ' · ' + group.left_out + ' more completions are not shown' : '')));
  const columns = [...new Set(group.rows.flatMap(r => Object.keys(r.columns || {})))].map(name => COLUMN + name);
  const known = Object.keys(MODES).filter(m => m !== 'none' && group.rows.some(r => values(r, m)));
  const modes = [...known, ...columns, 'none'];
  const before = $('mode').value;
  $('mode').replaceChildren(...modes.map(m => option(m, how(m).label)));
  $('mode').value = modes.includes(before) ? before : modes[0];
  tree(group);
  cards();
}

function cards() {
  const {group, r: chosen} = state.chosen, mode = $('mode').value;
  let most = 0;
  for (const row of group.rows) for (const v of values(row, mode) || []) most = Math.max(most, Math.abs(v ?? 0));
  const scale = (share, text) => { const s = make('span', {}, text); s.style.background = colour(share); return s; };
  $('scale').replaceChildren(...(mode === 'none' || !most ? [] :
    how(mode).signed ? [scale(-1, digits(-most)), scale(0, '0'), scale(1, digits(most))] :
    [scale(0, '0'), scale(1, digits(most))]));
  $('cards').replaceChildren(...group.rows.map((row, r) => {
    const numbers = values(row, mode);
    const tokens = make('div', {class: 'tokens'});
    row.tokens.forEach((t, i) => {
      if (i === row.cut[0] && row.cut[1]) tokens.append(make('span', {class: 'gap'}, '… ' + row.cut[1] + ' tokens left out …'));
      const [id, text] = pieces[t];
      const span = make('span', {'data-r': r, 'data-t': i}, text === null ? '⟨' + id + '⟩' : text.replaceAll('\n', '↵\n'));
      if (text === null) span.className = 'id';
      if (row.trained && !row.trained[i]) span.className = 'outside';
      else if (numbers && most && numbers[i]) span.style.background = colour(numbers[i] / most);
      tokens.append(span);
    });
    const facts = make('dl');
    const fact = (name, text) => facts.append(make('div', {}, make('dt', {}, name + ' '), make('dd', {}, text)));
    row.verdicts.forEach(([name, outcome, score, detail]) => fact(name, outcome + ', score ' + digits(score) + (detail ? ': ' + detail : '')));
    (row.numbers || []).forEach(([name, value]) => fact(name, digits(value)));
    fact('tokens', row.length + (row.truncated ? ', truncated' : ''));
    if (row.origin) fact('origin', ['', 'other context', 'older weights', 'external text'][row.origin] || String(row.origin));
    if (group.prompts.length > 1) fact('prompt', String(row.prompt + 1));
    const kind = 'card' + (r === chosen ? ' chosen' : '') + (row.live ? '' : ' masked');
    const head = make('b', {}, '#' + (r + 1) + '  reward ' + digits(row.reward) + (row.live ? '' : ' (left out)'));
    const card = make('div', {class: kind}, head, tokens);
    if (row.text !== undefined) card.append(make('pre', {}, row.text));
    card.append(facts);
    return card;
  }));
}

function tree(group) {
  const nodes = group.tree.map(node => ({...node, children: []}));
  if (!nodes.length) return $('tree').replaceChildren('no completion with a reward');
  nodes.forEach(n => { if (n.parent >= 0) nodes[n.parent].children.push(n); });
  let leaves = 0, deepest = 0;
  nodes.forEach(n => { n.level = n.parent < 0 ? 0 : nodes[n.parent].level + 1; deepest = Math.max(deepest, n.level); });
  const WIDE = 216, HIGH = 34;
  const stack = [nodes[0]];
  const order = [];
  while (stack.length) { const n = stack.pop(); order.push(n); stack.push(...[...n.children].reverse()); }
  order.forEach(n => { if (!n.children.length) n.y = (leaves++ + 0.5) * HIGH; });
  order.reverse().forEach(n => { if (n.children.length) n.y = n.children.reduce((s, c) => s + c.y, 0) / n.children.length; });
  const width = (deepest + 1) * WIDE + 150, height = leaves * HIGH + 8;
  const svg = draw('svg', {width, height, viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': 'tree of prefixes'});
  const rewards = group.rows.filter(r => r.live && r.reward !== null).map(r => r.reward);
  const range = Math.max(...rewards) - Math.min(...rewards) || 1;
  nodes.forEach((n, i) => {
    const x = n.level * WIDE + 14, up = n.parent < 0 ? null : nodes[n.parent];
    const change = up ? n.value - up.value : 0;
    const circle = draw('circle', {cx: x, cy: n.y, r: 4 + 2 * Math.sqrt(n.rows), fill: colour(change / range), 'data-node': i});
    const short = n.text.length > 17 ? n.text.slice(0, 16) + '…' : n.text;
    const name = n.to > n.from ? short.replaceAll('\n', '↵') : up ? '(end)' : '(start)';
    const at = x + 8 + 2 * Math.sqrt(n.rows);
    const worth = 'V ' + digits(n.value) + (n.rows > 1 ? '  n ' + n.rows : '  #' + (n.row + 1));
    n.right = at + 7 * Math.max(name.length, worth.length) + 4;
    if (up) svg.append(draw('path', {class: 'edge', d: `M${up.right} ${up.y}C${x - 40} ${up.y} ${x - 40} ${n.y} ${x} ${n.y}`}));
    svg.append(circle, draw('text', {class: 'piece', x: at, y: n.y - 2, 'data-node': i}, name), draw('text', {x: at, y: n.y + 11}, worth));
  });
  $('tree').replaceChildren(svg);
}

// ---- numbers under the pointer

function tip(event) {
  const target = event.target.closest ? event.target.closest('[data-t],[data-node]') : null;
  if (!target || !state.chosen) { $('tip').hidden = true; return; }
  const {group} = state.chosen;
  let text;
  if (target.dataset.node !== undefined) {
    const n = group.tree[target.dataset.node], up = group.tree[n.parent];
    text = 'tokens ' + n.from + ' to ' + n.to + ' of ' + n.rows + ' completion(s)\nV ' + digits(n.value) +
      (up ? ', before ' + digits(up.value) : '') + '\n' + n.text;
  } else {
    const row = group.rows[target.dataset.r], i = Number(target.dataset.t);
    const at = i < row.cut[0] ? i : i + row.cut[1];
    const get = name => { const v = values(row, name); return v ? v[i] : undefined; };
    const lines = ['token ' + at + ', id ' + pieces[row.tokens[i]][0]];
    const say = (name, v) => { if (v !== undefined && v !== null) lines.push(name + ' ' + digits(v)); };
    say('advantage', get('advantage'));
    const logp = get('logp');
    if (typeof logp === 'number') lines.push('log-prob ' + digits(logp) + ' (p ' + digits(Math.exp(logp)) + ')');
    Object.keys(row.columns || {}).forEach(name => say(name, get(COLUMN + name)));
    const ratio = get('log_ratio');
    if (typeof ratio === 'number') lines.push('ratio ' + digits(Math.exp(ratio)));
    if (row.trained && !row.trained[i]) lines.push('not trained on');
    text = lines.join('\n');
  }
  const box = $('tip');
  box.textContent = text;
  box.hidden = false;
  box.style.left = Math.min(event.clientX + 14, innerWidth - box.offsetWidth - 8) + 'px';
  box.style.top = Math.min(event.clientY + 16, innerHeight - box.offsetHeight - 8) + 'px';
}

// ---- what the address remembers

const FIELDS = ['run', 'from', 'to', 'low', 'high', 'outcome', 'text', 'sort', 'mode'];
function remember() {
  const kept = new URLSearchParams();
  for (const id of FIELDS) if ($(id).value !== '') kept.set(id, $(id).value);
  if ($('down').checked) kept.set('down', 1);
  if (state.chosen) { kept.set('group', state.chosen.g); kept.set('row', state.chosen.r); }
  history.replaceState(null, '', '#inspector?' + kept);
}
function recall() {
  const asked = location.hash.startsWith('#inspector?');
  const kept = new URLSearchParams(asked ? location.hash.split('?')[1] : '');
  for (const id of FIELDS) if (kept.has(id) && id !== 'mode') $(id).value = kept.get(id);
  $('down').checked = kept.has('down');
  const found = rows.find(x => x.g === Number(kept.get('group')) && x.r === Number(kept.get('row')));
  list();
  show(found || filtered()[0] || rows[0]);
  if ([...$('mode').options].some(o => o.value === kept.get('mode'))) {
    $('mode').value = kept.get('mode');
    cards();
  }
  if (asked) $('inspector').scrollIntoView();
}

$('filters').addEventListener('input', () => { state.page = 0; list(); remember(); });
$('filters').addEventListener('submit', event => event.preventDefault());
$('clear').onclick = () => { $('filters').reset(); $('run').value = ''; state.page = 0; list(); remember(); };
$('back').onclick = () => { state.page--; list(); };
$('forth').onclick = () => { state.page++; list(); };
$('mode').addEventListener('input', () => { cards(); remember(); });
document.addEventListener('mouseover', tip);
if (rows.length) recall();
})();
