// An OpenID Connect provider for tests: npm oidc-provider with the device flow
// (RFC 8628), the authorization code flow, and three clients. It listens on a free port of 127.0.0.1, prints
// its issuer URL as the first line, and ends when its standard input does.
import { createServer } from 'node:http';

import Provider from 'oidc-provider';

const server = createServer();

const client = (id, method) => ({
  client_id: id,
  client_name: 'sshgate',
  token_endpoint_auth_method: method,
  ...(method === 'none' ? {} : { client_secret: `secret of ${id} & more: 100%` }),
  grant_types: ['urn:ietf:params:oauth:grant-type:device_code', 'authorization_code', 'refresh_token'],
  response_types: ['code'],
  redirect_uris: ['https://gate.example.com/oauth/callback'],
});

const configuration = {
  clients: [
    client('sshgate', 'none'),
    client('sshgate-basic', 'client_secret_basic'),
    client('sshgate-post', 'client_secret_post'),
  ],
  claims: {
    openid: ['sub', 'groups'],
    email: ['email', 'email_verified'],
    profile: ['name'],
  },
  // Puts e-mail and groups into the ID token.
  conformIdTokenClaims: false,
  features: {
    deviceFlow: { enabled: true },
    devInteractions: { enabled: true },
  },
  cookies: { keys: ['only for tests'] },
  ttl: { DeviceCode: 600, Interaction: 600, Grant: 600, Session: 600, IdToken: 300, AccessToken: 300 },
  // Whoever gives a name has an account.
  findAccount: (ctx, sub) => ({
    accountId: sub,
    claims: () => ({
      sub,
      email: `${sub}@example.com`,
      email_verified: true,
      name: sub,
      groups: ['engineering', 'oncall'],
    }),
  }),
};

server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  server.on('request', new Provider(issuer, configuration).callback());
  console.log(issuer);
});

process.stdin.on('end', () => process.exit(0));
process.stdin.resume();
