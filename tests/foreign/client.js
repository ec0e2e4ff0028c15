// A client in JavaScript that has nothing but the shipped protos: node client.js TARGET PROTOS
//
// Submits a job, watches it to its end whatever becomes of the connection, is refused, and prints
// a line of JSON for each thing it learns.
"use strict";

const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");
const protobuf = require("protobufjs");

const [target, protos] = process.argv.slice(2);
const definition = loader.loadSync("longshore/v1/job_service.proto", {
  includeDirs: [protos],
  longs: Number,
  enums: String,
  oneofs: true,
});
const { JobService } = grpc.loadPackageDefinition(definition).longshore.v1;
const jobs = new JobService(target, grpc.credentials.createInsecure());
const details = new protobuf.Root();
details.resolvePath = (_, name) => path.resolve(protos, name);
details.loadSync("longshore/v1/errors.proto");
details.loadSync("google/rpc/status.proto");

const say = (line) => console.log(JSON.stringify(line));
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const deadline = () => ({ deadline: Date.now() + 60_000 });

function unary(method, request) {
  return new Promise((answer, fail) =>
    jobs[method](request, new grpc.Metadata(), deadline(), (error, reply) =>
      error ? fail(error) : answer(reply),
    ),
  );
}

/** One stream, from the cursor on. True after the terminal event. */
function follow(jobId, cursor) {
  return new Promise((done, fail) => {
    const request = { jobId, includeLogs: true };
    if (cursor.at !== undefined) request.afterSequence = cursor.at;
    const stream = jobs.WatchProgress(request, deadline());
    let ended = false;
    stream.on("data", (message) => {
      cursor.at = message.sequence;
      say({ event: message.event ?? "", sequence: message.sequence });
      if (message.terminal) {
        ended = true;
        say({ result: message.terminal.job.result.value });
      }
    });
    stream.on("end", () => done(ended));
    stream.on("error", (error) => {
      const again = [grpc.status.UNAVAILABLE, grpc.status.INTERNAL, grpc.status.CANCELLED];
      if (!again.includes(error.code)) fail(error);
      else done(false);
    });
  });
}

/** The details of an error: every Any by the type that it names. */
function explain(error) {
  const raw = error.metadata.get("grpc-status-details-bin")[0];
  const status = details.lookupType("google.rpc.Status").decode(raw);
  return status.details.map((any) => {
    const type = details.lookupType(any.type_url.split("/").pop());
    return { type: type.name, ...type.decode(any.value).toJSON() };
  });
}

async function main() {
  const spec = { task: "echo", payload: '{"text":"from node"}' };
  const { job } = await unary("Submit", { spec, idempotencyKey: "node-1" });
  say({ submitted: job.jobId });
  const cursor = {};
  while (!(await follow(job.jobId, cursor))) {
    say({ cut: cursor.at });
    await pause(50);
  }
  const again = await unary("Submit", { spec, idempotencyKey: "node-1" });
  say({ again: again.job.jobId, created: Boolean(again.created) });
  try {
    await unary("Submit", { spec: { task: "ecko", labels: { Wrong: "x" } } });
  } catch (error) {
    say({ refused: grpc.status[error.code], details: explain(error) });
  }
  jobs.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
