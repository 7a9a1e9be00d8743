"""The composition root: the only package that names concrete parts. `application.py` makes the server of them."""
