"""Text to token ids and back, and chat templates, without torch.

A thin layer over `tokenizers`, the Rust library that reads `tokenizer.json`.
The Auto classes of transformers are not used, because they import torch wherever
it is installed; the template renderer of transformers does not, and is.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import os
import pathlib
import re
import typing as tp

import tokenizers

Message = tp.Mapping[str, tp.Any]

# A chat model ends its turn with one of these, whatever its config calls "eos".
TURN_ENDS = ("<|im_end|>", "<end_of_turn>", "<|eot_id|>")
# What a template that asks for the date is told: the day that Llama 3's template falls back to.
DATE = datetime.date(2024, 7, 26)


class Tokenizer:
    """A vocabulary, its special tokens and its chat template.

    Attributes:
      backend: the `tokenizers.Tokenizer`.
      chat_template: Jinja source, "" where the model has none.
      eos_ids: every id that ends a completion, at least one; the first is the model's
        own end-of-sequence token.
      pad_id: fills unused positions; never tells padding from text (masks do that),
        and is the first of `eos_ids` where the model names none.
      bos_id: None where the model has none.
      limit: ids from here on have no embedding, so `encode` refuses them; None: not known.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        chat_template: str = "",
        eos_ids: tp.Iterable[int] = (),
        pad_id: int | None = None,
        bos_id: int | None = None,
    ):
        """eos_ids: those the model's files name; TURN_ENDS of the vocabulary are added.

        Raises: ValueError when there is no end token, or an id outside the vocabulary.
        """
        backend.no_padding()
        backend.no_truncation()
        ends = [backend.token_to_id(token) for token in TURN_ENDS]
        self.backend = backend
        self.limit: int | None = None
        self.chat_template = chat_template
        added = backend.get_added_tokens_decoder().values()
        special = sorted((t.content for t in added if t.special), key=len, reverse=True)
        self._spelled = re.compile("|".join(map(re.escape, special)) or "(?!)")
        stops = [*map(int, eos_ids), *(i for i in ends if i is not None)]
        self.eos_ids: tuple[int, ...] = tuple(dict.fromkeys(stops))
        if not self.eos_ids:
            raise ValueError(
                "the tokenizer has no end-of-sequence token, so no completion could stop; "
                "expected eos_token in tokenizer_config.json or eos_token_id in "
                "generation_config.json"
            )
        self.pad_id: int = self.eos_ids[0] if pad_id is None else int(pad_id)
        self.bos_id: int | None = None if bos_id is None else int(bos_id)
        for name, ids in (("eos", self.eos_ids), ("pad", [self.pad_id]), ("bos", [self.bos_id])):
            for i in ids:
                if i is not None and backend.id_to_token(i) is None:
                    raise ValueError(
                        f"{name} token id: got {i}, expected an id of this vocabulary of "
                        f"{self.vocab_size}; do tokenizer and configuration belong together?"
                    )

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included; an embedding may have more rows."""
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    def beyond(self, rows: int) -> list[str]:
        """The tokens that an embedding of so many rows lacks.

        Special ones are not among them unless they end, pad or begin a text: Gemma 3's small models
        have one for images; `encode` refuses a text that spells such a one.
        """
        vocab = self.backend.get_vocab(with_added_tokens=True)
        added = self.backend.get_added_tokens_decoder()
        own = {*self.eos_ids, self.pad_id, self.bos_id}
        return sorted(
            token
            for token, i in vocab.items()
            if i >= rows and (i in own or not (i in added and added[i].special))
        )

    def encode(self, text: str, add_special: bool = False) -> list[int]:
        """Ids of a text; special tokens written in it are parsed.

        add_special: also what the model puts around a plain text, such as a BOS.
        Raises: ValueError for a token that the model has no embedding of.
        """
        try:
            ids = list(self.backend.encode(text, add_special_tokens=add_special).ids)
        except TypeError as e:
            raise ValueError(f"got {text!r:.80}, expected a text without lone surrogates") from e
        if self.limit is not None and max(ids, default=0) >= self.limit:
            i = max(ids)
            raise ValueError(
                f"the text {text!r:.80} has the token {self.backend.id_to_token(i)!r} with the id "
                f"{i}; the model has embeddings of the ids below {self.limit}"
            )
        return ids

    @functools.cached_property
    def _prepends(self) -> bool:
        """Whether a text gets a blank in front, as SentencePiece's tokenizers give it."""
        one = self.encode("a")
        return self.decode(one + one) != "aa"

    def _going_on(self, text: str) -> list[int]:
        """Ids of a text behind another: without the blank that begins a text of its own."""
        if text and self._prepends:
            for lead in ("\ue000", "\n", "="):
                head, whole = self.encode(lead), self.encode(lead + text)
                if whole[: len(head)] == head and self.decode(whole, False) == lead + text:
                    return whole[len(head) :]
        return self.encode(text)

    def unseen(self, text: str) -> str | None:
        """A special token in a text, which `decode` leaves out, so that it never shows it.

        None for a text without, and for one that is a token which ends a completion anyway.
        """
        found = self._spelled.search(text)
        ends = found is not None and self.backend.token_to_id(text) in self.eos_ids
        return found[0] if found and not ends else None

    def decode(self, ids: tp.Iterable[int], skip_special: bool = True) -> str:
        """Text of ids; special tokens are left out, or written out when skip_special is False."""
        return str(self.backend.decode([int(i) for i in ids], skip_special_tokens=skip_special))

    def render(
        self,
        messages: tp.Sequence[Message],
        add_generation_prompt: bool = True,
        **variables: tp.Any,
    ) -> str:
        """The conversation as one string, by the model's chat template.

        Args:
          messages: each has "role" and "content".
          add_generation_prompt: end with the opening of the assistant's turn.
          variables: what else the template reads, such as Qwen3's enable_thinking.  A template that
            asks for the date is told DATE, the same on every day and every machine.
        Raises: ValueError when there is no template, or when it refuses the messages.
        """
        import jinja2

        # The advice that PyTorch is missing: nothing here wants it.
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        from transformers.utils.chat_template_utils import render_jinja_template

        if not self.chat_template:
            raise ValueError(
                "this model has no chat template; encode plain text, or use its chat version"
            )
        variables = {"bos_token": ""} | self._special_tokens() | variables
        try:
            rendered = render_jinja_template(
                [[dict(m) for m in messages]],
                chat_template=_dated(self.chat_template),
                add_generation_prompt=add_generation_prompt,
                **variables,
            )
        except jinja2.TemplateError as e:
            roles = [m.get("role") for m in messages]
            raise ValueError(f"the chat template refused messages with roles {roles}: {e}") from e
        return str(rendered[0][0])

    def chat(
        self,
        messages: tp.Sequence[Message],
        add_generation_prompt: bool = True,
        **variables: tp.Any,
    ) -> list[int]:
        """Ids of `render`: the template writes the special tokens, none are added.

        What spells one in the content of a message is text, so that a reply which is quoted in a
        prompt, or a user of an endpoint, cannot end its turn and speak as another.
        """
        texts = [m["content"] for m in messages if isinstance(m.get("content"), str)]
        if not any(map(self._spelled.search, texts)):
            return self.encode(self.render(messages, add_generation_prompt, **variables))
        mark = next(c for c in map(chr, range(0xE000, 0xF900)) if not any(c in t for t in texts))
        quoted: list[str] = []

        def marked(found: re.Match[str]) -> str:
            quoted.append(found[0])
            return f"{mark}{len(quoted) - 1}{mark}"

        kept = [
            {**m, "content": self._spelled.sub(marked, m["content"])}
            if isinstance(m.get("content"), str)
            else m
            for m in messages
        ]
        pieces = self.render(kept, add_generation_prompt, **variables).split(mark)
        ids = self.encode(pieces[0])
        for at, text in zip(pieces[1::2], pieces[2::2], strict=True):
            ids += [i for character in quoted[int(at)] for i in self._going_on(character)]
            ids += self._going_on(text)
        return ids

    def preset(self, variables: tp.Mapping[str, tp.Any]) -> None:
        """Gives variables of the chat template for all messages, such as Qwen3's enable_thinking.

        They become a part of the template, and so of the fingerprint and of what `save` writes.
        `render` may be given others all the same.

        Raises: ValueError for a name that the template does not read.
        """
        for name, value in variables.items():
            if not re.search(rf"(?<![\w.'\"]){re.escape(name)}(?!\w)", self.chat_template):
                raise ValueError(
                    f"chat: got {name!r}, which the chat template does not read; it begins with "
                    f"{self.chat_template[:200]!r}"
                )
            own = f"{{% if {name} is not defined %}}{{% set {name} = {value!r} %}}{{% endif %}}"
            if own not in self.chat_template:
                self.chat_template = _behind(own, self.chat_template)

    def _special_ids(self) -> dict[str, int]:
        ids = {"eos_token": self.eos_ids[0], "pad_token": self.pad_id}
        return ids if self.bos_id is None else {"bos_token": self.bos_id, **ids}

    def _special_tokens(self) -> dict[str, str]:
        return {name: str(self.backend.id_to_token(i)) for name, i in self._special_ids().items()}

    def fingerprint(self) -> str:
        """16 hex digits over vocabulary, merges, pre-tokenizer, template and special ids."""
        template = _dated(self.chat_template)
        parts = [self.backend.to_str(), template, self.eos_ids, self.pad_id, self.bos_id]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    @classmethod
    def from_dir(cls, directory: str | pathlib.Path) -> Tokenizer:
        """Reads tokenizer.json and what stands beside it in a Hugging Face directory.

        Of tokenizer_config.json, special_tokens_map.json, chat_template.jinja and
        generation_config.json, each may be absent.
        Raises: FileNotFoundError without tokenizer.json; ValueError for a special token
          that the vocabulary does not have.
        """
        directory = pathlib.Path(directory)
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"no tokenizer.json in {directory}; got {_listing(directory)}. Save the fast "
                "tokenizer there: AutoTokenizer.from_pretrained(...).save_pretrained(directory)"
            )
        backend = tokenizers.Tokenizer.from_file(str(path))
        config = _read_json(directory / "special_tokens_map.json")
        config |= _read_json(directory / "tokenizer_config.json")
        generation = _read_json(directory / "generation_config.json")

        def token_id(name: str) -> int | None:
            token = config.get(name)
            token = token.get("content") if isinstance(token, dict) else token
            if token is None:
                return None
            found = backend.token_to_id(token)
            if found is None:
                raise ValueError(
                    f"{directory}: {name} is {token!r}, which tokenizer.json does not have"
                )
            return int(found)

        eos = token_id("eos_token")
        more = generation.get("eos_token_id")
        more = [] if more is None else more if isinstance(more, list) else [more]
        jinja = directory / "chat_template.jinja"
        template = (
            jinja.read_text("utf-8") if jinja.is_file() else config.get("chat_template") or ""
        )
        if isinstance(template, list):  # several named templates
            template = {t["name"]: t["template"] for t in template}.get("default", "")
        return cls(
            backend,
            chat_template=template,
            eos_ids=[*([] if eos is None else [eos]), *more],
            pad_id=token_id("pad_token"),
            bos_id=token_id("bos_token"),
        )

    def save(self, directory: str | pathlib.Path) -> None:
        """Writes what `from_dir` and transformers read, generation_config.json included."""
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        special = self._special_tokens()
        config: dict[str, tp.Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **special,
        }
        if self.chat_template:
            config["chat_template"] = self.chat_template
        generation: dict[str, tp.Any] = {f"{k}_id": i for k, i in self._special_ids().items()}
        generation["eos_token_id"] = list(self.eos_ids)
        self.backend.save(str(directory / "tokenizer.json"))
        for name, content in (
            ("tokenizer_config.json", config),
            ("special_tokens_map.json", special),
            ("generation_config.json", generation),
        ):
            text = json.dumps(content, indent=2, ensure_ascii=False)
            (directory / name).write_text(text + "\n", "utf-8")


def _behind(statement: str, template: str) -> str:
    """The template behind a statement; the empty text keeps a newline that it begins with."""
    return f"{statement}{{{{ '' }}}}{template}"


@functools.cache
def _dated(template: str) -> str:
    """The template with DATE for what it asks of strftime_now.

    transformers gives it the clock: a run that goes on tomorrow, and another process of it past
    midnight, would train on other prompts.

    Raises: ValueError for a format that stands elsewhere than in the call.
    """
    calls = re.findall(r"strftime_now\s*\(\s*(\"[^\"]*\"|'[^']*')?", template)
    if not calls:
        return template
    if not all(calls):
        raise ValueError(
            "the chat template calls strftime_now with something other than a text in quotes; "
            "write the format, or a date, into the template"
        )
    known = {call[1:-1]: DATE.strftime(call[1:-1]) for call in calls}
    return _behind(f"{{% set strftime_now = {known!r}.get %}}", template)


def _read_json(path: pathlib.Path) -> dict[str, tp.Any]:
    """The object in a file, {} where there is no file. Raises: ValueError for broken JSON."""
    if not path.is_file():
        return {}
    try:
        content: dict[str, tp.Any] = json.loads(path.read_text("utf-8"))
    except ValueError as e:
        raise ValueError(f"{path} is not valid JSON: {e}; copy it again") from e
    return content


def _listing(directory: pathlib.Path) -> str:
    if not directory.is_dir():
        return "no such directory"
    return ", ".join(sorted(p.name for p in directory.iterdir())[:12]) or "an empty directory"
