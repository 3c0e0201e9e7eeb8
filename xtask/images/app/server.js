// READY when the service compiled a TypeScript module and answered a request with it.
const started = Date.now();
const fs = require('fs');
const http = require('http');
const express = require('express');
const lodash = require('lodash');
const typescript = require('typescript');
require('winston');
require('axios');

const source = fs.readFileSync('/app/hello.ts', 'utf8');
const options = { compilerOptions: { module: typescript.ModuleKind.CommonJS } };
const hello = { exports: {} };
new Function('exports', 'module', typescript.transpileModule(source, options).outputText)(hello.exports, hello);

const app = express();
app.get('/', (request, response) => response.json(hello.exports.greet({ who: lodash.capitalize('world'), times: 3 })));
const server = app.listen(0, '127.0.0.1', () => {
  http.get({ host: '127.0.0.1', port: server.address().port, path: '/' }, (answer) => {
    let body = '';
    answer.on('data', (chunk) => (body += chunk));
    answer.on('end', () => {
      if (answer.statusCode === 200) console.log(`READY node ${Date.now() - started} ms ${body}`);
      process.exit(answer.statusCode === 200 ? 0 : 1);
    });
  });
});
