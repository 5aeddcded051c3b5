"""One docker verb a file: plain typed functions, the public Python API."""
