// GenerationService and its errors, straight from the proto files.

import { fileURLToPath } from 'node:url';

import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

const definition = protoLoader.loadSync(
  ['outrider/v1/generation.proto', 'google/rpc/status.proto', 'google/rpc/error_details.proto'],
  {
    includeDirs: [fileURLToPath(new URL('../../protos', import.meta.url))],
    keepCase: true,
    // A seed has 64 bits, more than a number holds.
    longs: String,
    enums: String,
    defaults: true,
    oneofs: true,
  },
);

const { GenerationService } = grpc.loadPackageDefinition(definition).outrider.v1;

export function connect(address) {
  return new GenerationService(address, grpc.credentials.createInsecure(), {
    // A server that has vanished or stopped is given up after 25 s; it allows a ping every 10 s.
    'grpc.keepalive_time_ms': 20_000,
    'grpc.keepalive_timeout_ms': 5_000,
    // An http_proxy in the environment is for the world outside, and cannot reach this machine's own address.
    'grpc.enable_http_proxy': 0,
  });
}

/** Return the `google.rpc` details of an error by the names of their types, as in `ErrorInfo` and `RetryInfo`. */
export function detailsOf(error) {
  const [bytes] = error.metadata?.get('grpc-status-details-bin') ?? [];
  if (bytes === undefined) return {};
  const { details } = definition['google.rpc.Status'].deserialize(bytes);
  return Object.fromEntries(
    details.map(({ type_url, value }) => {
      const name = type_url.slice(type_url.lastIndexOf('/') + 1);
      return [name.replace('google.rpc.', ''), definition[name]?.deserialize(value)];
    }),
  );
}

/** Return after how many milliseconds the server wants the call to be tried again; undefined where it does not. */
export function retryDelayMs(error) {
  const delay = detailsOf(error).RetryInfo?.retry_delay;
  return delay && Number(delay.seconds) * 1e3 + delay.nanos / 1e6;
}
