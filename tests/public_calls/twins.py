"""Calls of nnbook.twins."""

from public_calls import call

CALLS = {
    "small_cnn": lambda rng: call(channels=2, hidden=3, classes=4),
    "lenet5": lambda rng: call(classes=4),
    "inception": lambda rng: call(2),
    "resnet": lambda rng: call(widths=(2, 3), blocks=1),
    "char_rnn": lambda rng: call(5, 3, cell="gru"),
    "seq2seq": lambda rng: call(5, 4, 3, cell="lstm"),
    "seq2seq_attention": lambda rng: call(5, 4, 3),
    "recurrent_classifier": lambda rng: call("rnn", 2, 3, 2),
    "gpt": lambda rng: call(vocab_size=5, context=4, n_layer=1, n_head=2, n_embd=4),
    "translator": lambda rng: call(source_size=5, target_size=6, nhead=2, d_model=4),
}
