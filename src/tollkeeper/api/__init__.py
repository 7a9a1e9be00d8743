"""The endpoints: each parses and authorises a request, calls one function of the domain, and renders its result."""
