"""`heal view`: a run's traces in a browser, from its folder alone, while it goes on.

`index` knows which traces there are, `trace` opens one, `pages` draws, `server` answers. Knows no
model and writes nothing but a reader's marks (`heal.store.marks`).
"""
