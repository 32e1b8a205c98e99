"""HEAL: hindsight entropy-assisted learning, an independent implementation.

Import from the modules; nothing is re-exported here, so that `import heal` stays instant.
"""

__version__ = "0.3.0"
