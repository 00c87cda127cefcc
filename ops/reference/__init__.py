"""The reference pages in ops/docs/reference, generated from the code: python -m ops.reference."""
