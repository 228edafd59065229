"""Training of the bundled pair: corpus, tokenizer, target, distilled draft, export."""
