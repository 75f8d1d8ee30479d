"""Data that does not fit into memory: rows in a sharded tensorstore (zarr3), written once, read by row.

    place       where a store lies: a folder, or a bucket by URL
    arrays      its arrays: zarr3, a file a shard, chunks with checksums
    manifest    what it holds and how that was made (store.json)
    row_sources what it is made of: files, `datasets`, the project's own sources, in blocks of a fixed size
    row_kinds   texts, chats, pairs: a row of JSON -> token rows -> planes of numbers
    events      histories: people's events one after the other
    people      where those come from: rows of people, streamed, or a table of single events
    writing     a block of the source -> a shard; done ones are left as they are
    reading     a store as a source of batches; mixtures of several

Nothing here needs jax but `reading`.
"""
