# Streams a generation with a seed of 64 bits, then says which field of a bad request is refused.
require 'grpc'
require 'google/protobuf/well_known_types' # gives details of errors their `unpack`
require 'google/rpc/error_details_pb'
require 'outrider/v1/generation_services_pb'

service = Outrider::V1::GenerationService::Stub.new(ARGV[0], :this_channel_is_insecure)
asked = { text: ARGV[1], max_tokens: 16, seed: 2**64 - 1 }

service.generate(Outrider::V1::GenerateRequest.new(**asked)).each do |message|
  message.chunk ? print(message.chunk.text) : warn("seed #{message.summary.seed}")
end

begin
  cold = Outrider::V1::Sampling.new(temperature: -1)
  service.generate(Outrider::V1::GenerateRequest.new(**asked, sampling: cold)).to_a
rescue GRPC::InvalidArgument => e
  refusals = e.to_rpc_status.details.filter_map { |detail| detail.unpack(Google::Rpc::BadRequest) }
  warn refusals[0].field_violations[0].field
end
