"""Whether two answers are the same: our own reading of mathematics as people write it.

`compare.compare` is the way in. It reads both answers whole or not at all: what cannot be read to
its last character is compared as text, because a parser that drops what it does not know calls
5 feet 9 inches 5. Pure Python and mpmath; it runs in a worker process that may be killed.
"""
