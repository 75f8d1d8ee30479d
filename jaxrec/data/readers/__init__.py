"""Readers of published layouts: each turns a file or folder into a `raw.RawSet`."""
