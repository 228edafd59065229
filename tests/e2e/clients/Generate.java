import com.google.protobuf.Any;
import com.google.rpc.BadRequest;
import com.google.rpc.Status;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.NettyChannelBuilder;
import outrider.v1.GenerateRequest;
import outrider.v1.GenerateResponse;
import outrider.v1.GenerationServiceGrpc;
import outrider.v1.GenerationServiceGrpc.GenerationServiceBlockingStub;
import outrider.v1.Sampling;

/** Streams a generation with a seed of 64 bits, then says which field of a bad request is refused. */
public class Generate {
  private static final Metadata.Key<byte[]> DETAILS =
      Metadata.Key.of("grpc-status-details-bin", Metadata.BINARY_BYTE_MARSHALLER);

  private static void show(GenerateResponse message) {
    if (message.hasChunk()) System.out.print(message.getChunk().getText());
    else System.err.println("seed " + Long.toUnsignedString(message.getSummary().getSeed()));
  }

  public static void main(String[] arguments) throws Exception {
    ManagedChannel channel = NettyChannelBuilder.forTarget(arguments[0]).usePlaintext().build();
    GenerationServiceBlockingStub service = GenerationServiceGrpc.newBlockingStub(channel);
    GenerateRequest.Builder asked = GenerateRequest.newBuilder().setText(arguments[1]).setMaxTokens(16).setSeed(-1L);
    service.generate(asked.build()).forEachRemaining(Generate::show);
    Sampling cold = Sampling.newBuilder().setTemperature(-1).build();
    try {
      service.generate(asked.setSampling(cold).build()).forEachRemaining(Generate::show);
    } catch (StatusRuntimeException refused) {
      for (Any detail : Status.parseFrom(refused.getTrailers().get(DETAILS)).getDetailsList()) {
        if (!detail.is(BadRequest.class)) continue;
        System.err.println(detail.unpack(BadRequest.class).getFieldViolations(0).getField());
      }
    }
    channel.shutdownNow();
  }
}
