// What an application does with node-postgres, through the pooler.
// Arguments: host, port, user, database, the pool mode.
"use strict";

const assert = require("node:assert/strict");
const { Client, Pool } = require("pg");
const Cursor = require("pg-cursor");

const [host, port, user, database, mode] = process.argv.slice(2);
const where = { host, port: Number(port), user, database };

async function connect() {
  const client = new Client(where);
  await client.connect();
  return client;
}

const checks = {
  async parameters() {
    const client = await connect();
    const { rows } = await client.query("select $1::int + 1 as a, $2::text as b", [41, "text"]);
    assert.deepEqual(rows, [{ a: 42, b: "text" }]);
    await client.end();
  },

  async simple() {
    const client = await connect();
    const results = await client.query("select 1 as a; select 2 as b");
    assert.deepEqual(results.map((result) => result.rows[0]), [{ a: 1 }, { b: 2 }]);
    await client.end();
  },

  async named() {
    const clients = await Promise.all([connect(), connect(), connect()]);
    for (let turn = 0; turn < 10; turn++) {
      for (const [number, client] of clients.entries()) {
        const { rows } = await client.query({
          name: "whose",
          text: `select $1::text || ' of ${number}' as value`,
          values: [String(turn)],
        });
        assert.equal(rows[0].value, `${turn} of ${number}`);
      }
    }
    await Promise.all(clients.map((client) => client.end()));
  },

  async queued() {
    const client = await connect();
    const numbers = Array.from({ length: 50 }, (_, number) => number);
    const results = await Promise.all(numbers.map((number) => client.query("select $1::int as n", [number])));
    assert.deepEqual(results.map((result) => result.rows[0].n), numbers);
    await client.end();
  },

  async transactions() {
    const client = await connect();
    await client.query("create table if not exists node_t (x int)");
    await client.query("truncate node_t");
    await client.query("begin");
    await client.query("insert into node_t values (1)");
    await client.query("savepoint s");
    await assert.rejects(client.query("select 1/0"), { code: "22012" });
    await client.query("rollback to s");
    await client.query("commit");
    const { rows } = await client.query("select count(*)::int as count from node_t");
    assert.equal(rows[0].count, 1);
    await client.end();
  },

  async errors() {
    const client = await connect();
    for (let turn = 0; turn < 3; turn++) {
      await assert.rejects(client.query("selct $1", [1]), { code: "42601" });
      const { rows } = await client.query("select 'goes on' as value");
      assert.equal(rows[0].value, "goes on");
    }
    await client.end();
  },

  async cursor() {
    const client = await connect();
    await client.query("begin");
    const cursor = client.query(new Cursor("select generate_series(1, 1000) as n"));
    let total = 0;
    for (let rows = await cursor.read(100); rows.length > 0; rows = await cursor.read(100)) {
      total += rows.reduce((sum, row) => sum + row.n, 0);
    }
    await cursor.close();
    await client.query("commit");
    assert.equal(total, 500500);
    await client.end();
  },

  async pool() {
    const pool = new Pool({ ...where, max: 6 });
    const numbers = Array.from({ length: 100 }, (_, number) => number);
    const results = await Promise.all(numbers.map((number) => pool.query("select $1::int * 2 as n", [number])));
    assert.deepEqual(results.map((result) => result.rows[0].n), numbers.map((number) => number * 2));
    await pool.end();
  },

  async large() {
    const client = await connect();
    const text = "ü".repeat(1000000);
    const { rows } = await client.query("select $1::text as value", [text]);
    assert.equal(rows[0].value, text);
    await client.end();
  },
};

if (mode === "session") {
  checks.listening = async () => {
    const [listener, speaker] = await Promise.all([connect(), connect()]);
    const heard = new Promise((resolve) => listener.on("notification", (news) => resolve(news.payload)));
    await listener.query("listen node_news");
    await speaker.query("notify node_news, 'today'");
    assert.equal(await heard, "today");
    await Promise.all([listener.end(), speaker.end()]);
  };
}

async function main() {
  for (const [name, check] of Object.entries(checks)) {
    try {
      await check();
    } catch (error) {
      console.error(`node-postgres, ${name}: ${error.stack}`);
      process.exit(1);
    }
  }
  console.log(`${Object.keys(checks).length} checks`);
}

main();
