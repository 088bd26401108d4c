// BullMQ, both sides: `node bullmq_peer.js work QUEUE CONCURRENCY` and `node bullmq_peer.js send queues|priority`.
//
// `queues`: a queue a priority, one process for P0 (10 at once) and two for P2 (50 at once).
// `priority`: one queue, jobs with the `priority` option, three processes (50 at once) that take either.
// The first is faster in both figures, so it is the one held against ours; the second is told beside it.
// P2 are sent by addBulk, 100 a call. Finished jobs are removed at once. The orders are those of send.py.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const readline = require("node:readline");
const { Queue, Worker } = require("bullmq");
const { Redis } = require("ioredis");

const CHUNK = 100; // P2 between two looks at whether to go on
const P0_EVERY_MS = 20;
const PAUSE_MS = 5;
const COUNT_EVERY_MS = 100;
const DONE = { removeOnComplete: true, removeOnFail: true };

const nowMs = () => performance.timeOrigin + performance.now();
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const connect = () => new Redis(process.env.PEERS_URL, { maxRetriesPerRequest: null });

// A line for every P0, a count of P2: as in tally.py.
function work(queue, concurrency) {
  const file = (lane) => path.join(process.env.PEERS_DIR, `${lane}-${process.pid}.txt`);
  const p0 = file("p0");
  const count = fs.openSync(file("p2"), "w");
  let handled = 0;
  const handle = async (job) => {
    if (job.name === "p0") {
      fs.appendFileSync(p0, `${job.data.number} ${(nowMs() - job.data.sentAt).toFixed(3)}\n`);
    } else {
      handled += 1;
    }
  };
  const worker = new Worker(queue, handle, { connection: connect(), concurrency });
  worker.on("error", (error) => console.error(String(error)));
  setInterval(() => fs.writeSync(count, `${String(handled).padStart(12, "0")}\n`, 0), COUNT_EVERY_MS);
}

function send(way) {
  const queue = (name) => new Queue(name, { connection: connect() });
  const together = way === "priority" ? queue("jobs") : null;
  const [p0Queue, p2Queue] = together ? [together, together] : [queue("p0"), queue("p2")];
  const [p0Options, p2Options] = together ? [{ ...DONE, priority: 1 }, { ...DONE, priority: 10 }] : [DONE, DONE];
  let maySend = true;
  let p2 = 0;
  let p0 = 0;

  const chunk = () =>
    Array.from({ length: CHUNK }, () => ({ name: "p2", data: { number: p2++ }, opts: p2Options }));

  const orders = {
    async flood(seconds) {
      maySend = true;
      const [first, first_at, ends] = [p2, nowMs() / 1000, performance.now() + seconds * 1000];
      while (performance.now() < ends) {
        if (maySend) await p2Queue.addBulk(chunk());
        else await sleep(PAUSE_MS);
      }
      return { first, sent: p2 - first, first_at };
    },
    async p0(seconds) {
      const [first, first_at, began] = [p0, nowMs() / 1000, performance.now()];
      const [count, sending] = [Math.floor((seconds * 1000) / P0_EVERY_MS), []];
      for (let number = 0; number < count; number++) {
        await sleep(Math.max(0, began + number * P0_EVERY_MS - performance.now()));
        sending.push(p0Queue.add("p0", { number: p0++, sentAt: nowMs() }, p0Options));
      }
      await Promise.all(sending);
      return { first, sent: count, first_at };
    },
  };

  const input = readline.createInterface({ input: process.stdin });
  input.on("line", async (line) => {
    const [order, seconds] = line.trim().split(" ");
    if (order === "pause" || order === "resume") maySend = order === "resume";
    else process.stdout.write(`${JSON.stringify(await orders[order](Number(seconds)))}\n`);
  });
  input.on("close", () => process.exit(0));
}

const [, , side, name, concurrency] = process.argv;
if (side === "work") work(name, Number(concurrency));
else send(name);
