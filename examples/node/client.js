// A client of gradserve, made from the .proto files of this repository.
//
// GRADSERVE_SERVER is the server's address, 127.0.0.1:50051 if it is not set; GRADSERVE_TOKEN its token, if it wants one.

import { fileURLToPath } from "node:url";

import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const SERVER = process.env.GRADSERVE_SERVER ?? "127.0.0.1:50051";
const SECONDS = 60; // The most that a call may take.
const REPLY_BYTES = 64 * 1024 * 1024; // The largest reply of a server; a client of gRPC takes 4 MiB by itself.

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

/** What went wrong, for people. The details of INVALID_ARGUMENT and NOT_FOUND name the field and what is allowed. */
export function explained(error) {
  if (error.code === grpc.status.UNAVAILABLE) {
    return `no server answers at ${SERVER}; start one with: gradserve serve\n${error.details}`;
  }
  return typeof error.code === "number" ? `${grpc.status[error.code]}: ${error.details}` : error.message;
}
