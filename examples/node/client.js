// A client of gradserve, made from the .proto files of this repository.
//
// GRADSERVE_SERVER is the server's address, 127.0.0.1:50051 if it is not set; GRADSERVE_TOKEN its token, if it wants one.

import { fileURLToPath } from "node:url";

import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const SERVER = process.env.GRADSERVE_SERVER ?? "127.0.0.1:50051";
const SECONDS = 60; // The most that a call may take.
const REPLY_BYTES = 64 * 1024 * 1024; // The largest reply of a server; a client of gRPC takes 4 MiB by itself.
const STATUS = protoLoader.loadSync(fileURLToPath(new URL("status.proto", import.meta.url)), { defaults: true });

/** A client of GradientService. */
export function connect() {
  const protos = fileURLToPath(new URL("../../protos", import.meta.url));
  const definition = protoLoader.loadSync("gradserve/v1/service.proto", {
    includeDirs: [protos],
    defaults: true,
    enums: String,
    longs: String,
  });
  const { GradientService } = grpc.loadPackageDefinition(definition).gradserve.v1;
  return new GradientService(SERVER, grpc.credentials.createInsecure(), {
    "grpc.max_receive_message_length": REPLY_BYTES,
  });
}

/** The reply of a call as a promise. */
export function call(client, name, request) {
  const metadata = new grpc.Metadata();
  if (process.env.GRADSERVE_TOKEN) metadata.set("authorization", `Bearer ${process.env.GRADSERVE_TOKEN}`);
  return new Promise((resolve, reject) => {
    client[name](request, metadata, { deadline: Date.now() + 1000 * SECONDS }, (error, reply) =>
      error ? reject(error) : resolve(reply),
    );
  });
}

/**
 * What a failed call tells programs: what is wrong with which field, a reason such as UNKNOWN_MODEL, and after how many
 * seconds to try again (null where the server does not say).
 */
export function details(error) {
  const facts = { violations: [], reason: "", retrySeconds: null };
  const [packed] = error.metadata?.get("grpc-status-details-bin") ?? [];
  if (!packed) return facts;
  for (const { type_url, value } of STATUS["google.rpc.Status"].deserialize(packed).details) {
    const kind = type_url.split("/").at(-1); // "type.googleapis.com/google.rpc.BadRequest"
    const detail = STATUS[kind]?.deserialize(value);
    if (kind === "google.rpc.BadRequest") facts.violations = detail.fieldViolations;
    if (kind === "google.rpc.ErrorInfo") facts.reason = detail.reason;
    if (kind === "google.rpc.RetryInfo") {
      facts.retrySeconds = Number(detail.retryDelay.seconds) + detail.retryDelay.nanos / 1e9;
    }
  }
  return facts;
}

/** What went wrong, for people. */
export function explained(error) {
  if (error.code === grpc.status.UNAVAILABLE) {
    return `no server answers at ${SERVER}; start one with: gradserve serve\n${error.details}`;
  }
  if (typeof error.code !== "number") return error.message;
  const { violations, retrySeconds } = details(error);
  const lines = violations.map(({ field, description }) => `${field}: ${description}`);
  const text = lines.length ? lines.join("\n  ") : error.details;
  const again = retrySeconds === null ? "" : `\n  try again in ${retrySeconds} s`;
  return `${grpc.status[error.code]}: ${text}${again}`;
}
