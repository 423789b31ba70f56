// A client of an OpenID provider, the certified one of npm: it logs a user in, or shows a token bound to a key of its own (DPoP).
//
//     node caller.mjs --issuer URL --authorities FILE --client ID --flow code
//     node caller.mjs --issuer URL --authorities FILE --client ID --flow dpop --url https://llm.mesh.test:PORT/PATH [--count 3]
//
// Prints the tokens, then for each call its status. Names of the test's own domain are at 127.0.0.1.

import { readFileSync } from 'node:fs';

import { options, packaged, say } from './part.mjs';

const openid = await packaged('openid-client', 'build/index.js');
const { Agent, fetch } = await packaged('undici', 'index.js');

const RESOURCE = 'https://llm.mesh.test';
const SECRET = 'a secret of tests & more';
const REDIRECT = 'https://app.mesh.test/callback';

const given = options({
  issuer: {},
  authorities: {},
  client: {},
  flow: {},
  url: {},
  method: { default: 'GET' },
  count: { default: '1' },
  algorithm: { default: 'ES256' },
});

const lookup = (name, wanted, tell) =>
  wanted.all ? tell(null, [{ address: '127.0.0.1', family: 4 }]) : tell(null, '127.0.0.1', 4);
const dispatcher = new Agent({ connect: { ca: readFileSync(given.authorities), lookup } });
const ask = (url, asked) => fetch(url, { ...asked, dispatcher });

const config = await openid.discovery(new URL(given.issuer), given.client, undefined, openid.ClientSecretBasic(SECRET), {
  [openid.customFetch]: ask,
});
config[openid.customFetch] = ask;

if (given.flow === 'code') await logIn();
if (given.flow === 'dpop') await callWithProof();

async function logIn() {
  const verifier = openid.randomPKCECodeVerifier();
  const nonce = openid.randomNonce();
  const url = openid.buildAuthorizationUrl(config, {
    redirect_uri: REDIRECT,
    scope: 'openid llm:read',
    resource: RESOURCE,
    code_challenge: await openid.calculatePKCECodeChallenge(verifier),
    code_challenge_method: 'S256',
    nonce,
  });
  const answered = await follow(url);
  const checks = { pkceCodeVerifier: verifier, expectedNonce: nonce, idTokenExpected: true };
  const { access_token, id_token } = await openid.authorizationCodeGrant(config, answered, checks, { resource: RESOURCE });
  say({ access_token, id_token });
}

/** As a browser does: from page to page with the cookies, until the application's own address comes. */
async function follow(start) {
  const cookies = new Map();
  let url = start;
  for (let step = 0; step < 12; step += 1) {
    const cookie = [...cookies].map(([name, value]) => `${name}=${value}`).join('; ');
    const answer = await ask(url, { redirect: 'manual', headers: { cookie } });
    for (const set of answer.headers.getSetCookie()) {
      const [name, ...value] = set.split(';')[0].split('=');
      cookies.set(name, value.join('='));
    }
    const location = answer.headers.get('location');
    if (!location) throw new Error(`${url} answered ${answer.status}: ${await answer.text()}`);
    url = new URL(location, url);
    if (url.href.startsWith(REDIRECT)) return url;
  }
  throw new Error('the provider sends us round in circles');
}

async function callWithProof() {
  const DPoP = openid.getDPoPHandle(config, await openid.randomDPoPKeyPair(given.algorithm));
  const granted = await openid.clientCredentialsGrant(config, { resource: RESOURCE, scope: 'llm:read' }, { DPoP });
  say({ access_token: granted.access_token, token_type: granted.token_type });
  for (let call = 0; call < Number(given.count); call += 1) {
    const url = new URL(given.url);
    const answer = await openid.fetchProtectedResource(config, granted.access_token, url, given.method, null, undefined, { DPoP });
    say({ status: answer.status, decision: answer.headers.get('x-countersign-decision') });
  }
}
