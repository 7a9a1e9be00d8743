"""Single sign-on with OpenID Connect: the authorization code flow with PKCE, as a client of a tenant's provider."""
