// An OpenID provider: node-oidc-provider with its own pages, and clients that register themselves.
// Run as `node provider.mjs PORT`. Whoever logs in as NAME is the subject NAME, and NAME is their e-mail address.
import { exportJWK, generateKeyPair } from 'jose';
import { Provider } from 'oidc-provider';

const port = Number(process.argv[2]);

async function signingKey(alg) {
  const { privateKey } = await generateKeyPair(alg, { extractable: true });
  return { ...(await exportJWK(privateKey)), alg, use: 'sig', kid: `key of ${alg}` };
}

const provider = new Provider(`http://127.0.0.1:${port}`, {
  jwks: { keys: [await signingKey('RS256'), await signingKey('ES256'), await signingKey('PS256')] },
  cookies: { keys: ['of the tests'] },
  conformIdTokenClaims: false,
  claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['groups'] },
  enabledJWA: { idTokenSigningAlgValues: ['RS256', 'ES256', 'PS256'] },
  features: { registration: { enabled: true } },
  findAccount: (_, name) => ({
    accountId: name,
    claims: () => ({
      sub: name,
      email: name,
      email_verified: true,
      groups: name.startsWith('boss') ? ['ai-admins'] : ['staff'],
    }),
  }),
});
provider.listen(port, '127.0.0.1');
