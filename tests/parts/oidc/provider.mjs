// An OpenID provider, the certified one of npm: tokens as JWT (RFC 9068) and opaque (RFC 7662), bound to certificates (RFC 8705) and
// to keys (RFC 9449). What is ours is its configuration, a switch to make it fail, and a count of what it was asked.
//
//     node provider.mjs --certificate FILE --key FILE --client-authorities FILE [--host localhost] [--clients FILE] [--lifetime 300]
//     node provider.mjs --plain
//
// The line before `ready` tells the address of the switch, which is plain HTTP:
//     /mode?to=serve | slow | hang | hold | refuse | fail | redirect | redirect-all | foreign     how all but the switch is answered
//                             from now on; what is held is answered when the mode changes
//     /rotate?keep=0 | 1      a new signing key; the one before stays published, or does not
//     /counts                 how often each path was asked

import { createHash, generateKeyPairSync, randomBytes, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';

import { options, packaged, ready, say } from './part.mjs';

const { Provider } = await packaged('oidc-provider', 'lib/index.js');

const RESOURCE = 'https://llm.mesh.test';
const GROUPS = { alice: ['research', 'staff'], 'reader-service': ['machines'] };

const given = options({
  certificate: {},
  key: {},
  'client-authorities': {},
  'self-signed': {},
  host: { default: '127.0.0.1' },
  lifetime: { default: '300' },
  plain: { type: 'boolean', default: false },
});

const counts = {};
let mode = 'serve';
let held = [];
let answer;

const tls = given.plain
  ? undefined
  : {
      cert: readFileSync(given.certificate),
      key: readFileSync(given.key),
      ca: readFileSync(given['client-authorities']),
      // A client without a certificate, or with one that it has signed itself, is told by who it is later.
      requestCert: true,
      rejectUnauthorized: false,
    };
const listener = given.plain ? http.createServer(handle) : https.createServer(tls, handle);
listener.listen(0, given.host === '[::1]' ? '::1' : '127.0.0.1');
await once(listener, 'listening');
const { port } = listener.address();
const issuer = `${given.plain ? 'http' : 'https'}://${given.host}:${port}`;
let keys = [signingKey()];
provide();

const control = http.createServer(steer).listen(0, '127.0.0.1');
await once(control, 'listening');
say({ event: 'control', address: `127.0.0.1:${control.address().port}`, issuer });
ready(`${given.host === '[::1]' ? '[::1]' : '127.0.0.1'}:${port}`);

/** One key of each family. Their names tell that they belong together. */
function signingKey() {
  const name = randomBytes(4).toString('hex');
  const jwk = (type, settings, alg) => {
    const { privateKey } = generateKeyPairSync(type, settings);
    return { ...privateKey.export({ format: 'jwk' }), kid: `${name}-${alg}`, alg, use: 'sig' };
  };
  return [jwk('rsa', { modulusLength: 2048 }, 'RS256'), jwk('ec', { namedCurve: 'P-256' }, 'ES256')];
}

/** The provider takes its keys once, so that other keys are another one. Tokens and grants are kept beside it. */
function provide() {
  const provider = new Provider(issuer, {
    jwks: { keys: keys.flat() },
    clients: clients(),
    clientAuthMethods: ['client_secret_basic', 'tls_client_auth', 'self_signed_tls_client_auth', 'none'],
    scopes: ['openid', 'llm:read', 'llm:write'],
    cookies: { keys: ['only for tests'] },
    ttl: { AccessToken: Number(given.lifetime), ClientCredentials: Number(given.lifetime) },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      introspection: { enabled: true },
      revocation: { enabled: true },
      dPoP: { enabled: true },
      mTLS: {
        enabled: true,
        certificateBoundAccessTokens: true,
        tlsClientAuth: true,
        selfSignedTlsClientAuth: true,
        getCertificate: (ctx) => ctx.req.socket.getPeerX509Certificate?.(),
        certificateAuthorized: (ctx) => ctx.req.socket.authorized,
        certificateSubjectMatches: (ctx, property, expected) =>
          property === 'tls_client_auth_san_uri' &&
          ctx.req.socket.getPeerX509Certificate().subjectAltName === `URI:${expected}`,
      },
      resourceIndicators: {
        enabled: true,
        useGrantedResource: () => true,
        // A client with "opaque" in its name gets tokens that only the provider can read, all others signed ones.
        getResourceServerInfo: (ctx, resource, client) => ({
          scope: 'llm:read llm:write',
          audience: resource,
          accessTokenFormat: client.clientId.includes('opaque') ? 'opaque' : 'jwt',
          jwt: { sign: { alg: client.clientId.endsWith('es256') ? 'ES256' : 'RS256' } },
        }),
      },
    },
    extraTokenClaims: (ctx, token) => ({
      groups: GROUPS[token.accountId ?? token.clientId] ?? [],
      plan: { name: 'gold' },
      tenant: ['blue', 'green'],
    }),
    findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
    renderError: (ctx, out) => {
      ctx.type = 'json';
      ctx.body = out;
    },
  });
  const callback = provider.callback();
  answer = (request, response) =>
    request.url.startsWith('/interaction/') ? logIn(provider, request, response) : callback(request, response);
}

function clients() {
  const common = { redirect_uris: [], response_types: [], grant_types: ['client_credentials'], scope: 'llm:read llm:write' };
  const secret = { client_secret: 'a secret of tests & more', token_endpoint_auth_method: 'client_secret_basic' };
  const certified = { token_endpoint_auth_method: 'tls_client_auth', tls_client_certificate_bound_access_tokens: true };
  const all = [
    { client_id: 'reader-service', ...secret },
    { client_id: 'reader-es256', ...secret },
    { client_id: 'opaque-service', ...secret },
    // Asks about tokens, and gets none.
    { client_id: 'gateway', ...secret, grant_types: [] },
    { client_id: 'bound-service', ...certified, tls_client_auth_san_uri: 'spiffe://mesh.test/web/frontend' },
    { client_id: 'bound-opaque', ...certified, tls_client_auth_san_uri: 'spiffe://mesh.test/web/frontend' },
    {
      client_id: 'chat-app',
      ...secret,
      redirect_uris: ['https://app.mesh.test/callback'],
      response_types: ['code'],
      grant_types: ['authorization_code'],
      scope: 'openid llm:read llm:write',
    },
  ];
  if (given['self-signed']) all.push(selfSigned(new X509Certificate(readFileSync(given['self-signed']))));
  return all.map((client) => ({ ...common, ...client }));
}

/** A client that is known by a certificate of its own (RFC 8705 §2.2). */
function selfSigned(certificate) {
  const digest = createHash('sha256').update(certificate.raw).digest('base64url');
  const jwk = { ...certificate.publicKey.export({ format: 'jwk' }), x5c: [certificate.raw.toString('base64')], 'x5t#S256': digest };
  return {
    client_id: 'self-signed-service',
    token_endpoint_auth_method: 'self_signed_tls_client_auth',
    tls_client_certificate_bound_access_tokens: true,
    jwks: { keys: [jwk] },
  };
}

/** Whoever comes is alice and agrees to everything: how people log in is not what is tested. */
async function logIn(provider, request, response) {
  const { params, prompt } = await provider.interactionDetails(request, response);
  if (prompt.name === 'login') {
    return provider.interactionFinished(request, response, { login: { accountId: 'alice' } });
  }
  const grant = new provider.Grant({ accountId: 'alice', clientId: params.client_id });
  grant.addOIDCScope('openid llm:read');
  grant.addResourceScope(RESOURCE, 'llm:read llm:write');
  return provider.interactionFinished(request, response, { consent: { grantId: await grant.save() } });
}

function handle(request, response) {
  const { pathname } = new URL(request.url, issuer);
  counts[pathname] = (counts[pathname] ?? 0) + 1;
  if (mode === 'hang') return;
  if (mode === 'hold') return held.push(() => answer(request, response));
  if (mode === 'refuse') return request.socket.destroy();
  if (mode === 'fail') return response.writeHead(500).end('{"error":"server_error"}');
  if ((mode === 'redirect' && pathname === '/jwks') || mode === 'redirect-all') {
    return response.writeHead(302, { location: `${issuer}/elsewhere` }).end();
  }
  if (pathname === '/elsewhere') request.url = '/jwks';
  if (mode === 'foreign' && pathname.startsWith('/.well-known/')) {
    return response.writeHead(200).end(JSON.stringify({ issuer: `${issuer}/other`, jwks_uri: `${issuer}/jwks` }));
  }
  if (mode === 'slow') return setTimeout(() => answer(request, response), 1000);
  return answer(request, response);
}

function steer(request, response) {
  const { pathname, searchParams } = new URL(request.url, 'http://control');
  if (pathname === '/mode') {
    // What hangs is not to be answered when the mode changes.
    if (mode !== 'hold') listener.closeAllConnections();
    mode = searchParams.get('to');
    for (const go of held.splice(0)) go();
  }
  if (pathname === '/rotate') {
    keys = searchParams.get('keep') === '1' ? [signingKey(), keys[0]] : [signingKey()];
    provide();
  }
  response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(counts));
}
