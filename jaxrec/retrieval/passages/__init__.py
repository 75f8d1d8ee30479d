"""Floor 2: what a business wrote, found passage by passage and quoted by place: one index a tenant.

    document.py   a document, and a passage of it with exact offsets
    cutting.py    documents to passages, by headings, sentences and size
    word_index.py BM25 over stems
    encoder.py    the callables that make vectors, and the name by which an index knows them
    fusion.py     one score out of several, with learned weights
    index.py      build, put, remove, search; folder.py keeps it on disk, shelf.py keeps many tenants apart

Words come from `bm25s` and `PyStemmer`, structure from `markdown-it-py`; all are imported where they are used.
"""
