"""The models of conf/model/ as tests choose among them."""

ALIKE = {"bigram_embedding", "linear_attention", "lstm", "min_lstm", "multi_head", "ngram_witten_bell", "rnn"}
ALIKE |= {"single_head", "transformer"}  # models that differ from others in their sizes or a part
