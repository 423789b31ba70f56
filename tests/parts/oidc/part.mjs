// What the parts in JavaScript have in common: the packages that `install` has put beside the interpreter, the command line, the
// bound in time, and the lines that are printed. The same as part.py says for Python.

import { writeSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';

// The environment's bin/node was started, so that its packages are next to it.
const modules = new URL('../node/', pathToFileURL(process.argv0.startsWith('/') ? process.argv0 : process.execPath));

/** A package of the environment: modules do not look there by themselves. */
export async function packaged(name, entry) {
  const require = createRequire(modules);
  return import(pathToFileURL(entry ? `${modules.pathname}node_modules/${name}/${entry}` : require.resolve(name)));
}

/** The options of a command line; an unknown one ends the program. All of them have a value, but for those with `type: 'boolean'`. */
export function options(known) {
  const limit = { type: 'string', default: '60' };
  try {
    const all = Object.entries({ ...known, limit }).map(([name, option]) => [name, { type: 'string', ...option }]);
    const { values } = parseArgs({ options: Object.fromEntries(all) });
    // No part outlives its test by more than this, even if the test is killed.
    setTimeout(() => process.kill(process.pid, 'SIGALRM'), Number(values.limit) * 1000).unref();
    process.on('SIGTERM', () => process.exit(0));
    return values;
  } catch (error) {
    process.stderr.write(`${error.message}\n`);
    process.exit(2);
  }
}

/** One JSON line. It is written when this returns: the program may end right after. */
export function say(value) {
  writeSync(1, `${JSON.stringify(value)}\n`);
}

/** Tells the test that connections are answered from now on, and where. */
export function ready(address) {
  writeSync(1, `ready ${address}\n`);
}
