"""Claims of papers, each with its arms, seeds and measure, and the queue that runs them."""
