// Streams a generation: the text to stdout as it comes, one line of figures to stderr at the end.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	outriderv1 "outrider/v1"
)

// A server that has vanished is given up after 25 s; it allows a ping every 10 s.
var alive = keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}

// What a terminal would obey: C0 but tab and line feed, DEL, C1, separators, overrides and isolates of direction.
var acting = regexp.MustCompile(`[\x00-\x08\x0b-\x1f\x7f-\x{9f}\x{2028}\x{2029}\x{202a}-\x{202e}\x{2066}-\x{2069}]`)

func printable(text string) string {
	return acting.ReplaceAllStringFunc(text, func(letter string) string {
		quoted := strconv.QuoteToASCII(letter)
		return quoted[1 : len(quoted)-1]
	})
}

func isTerminal(file *os.File) bool {
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// The error in one line: code, our stable reason where there is one, and a sentence.
func describe(err error) string {
	failed := status.Convert(err)
	reason := ""
	for _, detail := range failed.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			reason = " (" + info.GetReason() + ")"
		}
	}
	return fmt.Sprintf("%s%s: %s", failed.Code(), reason, printable(failed.Message()))
}

func generate(ctx context.Context, address string, request *outriderv1.GenerateRequest) error {
	channel, err := grpc.Dial(address, grpc.WithInsecure(), grpc.WithKeepaliveParams(alive), grpc.WithNoProxy())
	if err != nil {
		return err
	}
	defer channel.Close()
	stream, err := outriderv1.NewGenerationServiceClient(channel).Generate(ctx, request)
	if err != nil {
		return err
	}
	onTerminal := isTerminal(os.Stdout)
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if summary := message.GetSummary(); summary != nil {
			numTokens := summary.GetUsage().GetNumGeneratedTokens()
			perSecond := float64(numTokens) / summary.GetTimings().GetTotalMs() * 1e3
			fmt.Fprintf(os.Stderr, "\n%d tokens, %.1f tokens/s, seed %d\n", numTokens, perSecond, summary.GetSeed())
			continue
		}
		text := message.GetChunk().GetText()
		if onTerminal {
			text = printable(text)
		}
		if _, err := os.Stdout.WriteString(text); err != nil {
			return err
		}
	}
}

func main() {
	address := flag.String("address", "127.0.0.1:50050", "a running orchestrator")
	maxTokens := flag.Int("max-tokens", 128, "most tokens to generate")
	temperature := flag.Float64("temperature", 0, "0 takes the most probable token")
	seed := flag.Uint64("seed", 0, "the same seed gives the same text; drawn if absent")
	timeout := flag.Duration("timeout", 2*time.Minute, "time for the whole answer")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: generate [flags] PROMPT")
		os.Exit(2)
	}
	request := &outriderv1.GenerateRequest{
		Prompt:    &outriderv1.GenerateRequest_Text{Text: flag.Arg(0)},
		MaxTokens: int32(*maxTokens),
		Sampling:  &outriderv1.Sampling{Temperature: *temperature},
	}
	flag.Visit(func(given *flag.Flag) {
		if given.Name == "seed" {
			request.Seed = seed
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	if err := generate(ctx, *address, request); err != nil {
		fmt.Fprintln(os.Stderr, describe(err))
		os.Exit(1)
	}
}
