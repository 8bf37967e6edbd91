"""Recurrent networks as their equations say, from the parameters of torch's layers."""

import torch


def rnn_cell(parameters, x, hidden):
    w_x, w_h, b_x, b_h = parameters
    hidden = torch.tanh(x @ w_x.T + b_x + hidden @ w_h.T + b_h)
    return hidden, hidden


def gru_cell(parameters, x, hidden):
    w_x, w_h, b_x, b_h = parameters
    from_x, from_h = (x @ w_x.T + b_x).chunk(3, dim=-1), (hidden @ w_h.T + b_h).chunk(3, dim=-1)
    reset = torch.sigmoid(from_x[0] + from_h[0])
    update = torch.sigmoid(from_x[1] + from_h[1])
    candidate = torch.tanh(from_x[2] + reset * from_h[2])
    hidden = update * hidden + (1 - update) * candidate
    return hidden, hidden


def lstm_cell(parameters, x, state):
    w_x, w_h, b_x, b_h = parameters
    hidden, cell = state
    write, forget, candidate, read = (x @ w_x.T + b_x + hidden @ w_h.T + b_h).chunk(4, dim=-1)
    cell = torch.sigmoid(forget) * cell + torch.sigmoid(write) * torch.tanh(candidate)
    hidden = torch.sigmoid(read) * torch.tanh(cell)
    return hidden, (hidden, cell)


CELLS = {"RNN": rnn_cell, "GRU": gru_cell, "LSTM": lstm_cell}


def logits(model, tokens):
    """Return the logits (B, T, V) of a `RecurrentModel` without dropout, one layer and one step at a time."""
    step = CELLS[type(model).__name__]
    sequence = [model.embedding.weight[token] for token in tokens.T]
    for parameters in model.recurrence.all_weights:
        zeros = sequence[0].new_zeros(tokens.shape[0], model.recurrence.hidden_size)
        state, outputs = (zeros, zeros) if step is lstm_cell else zeros, []
        for x in sequence:
            output, state = step(parameters, x, state)
            outputs.append(output)
        sequence = outputs
    return torch.stack([hidden @ model.readout.weight.T + model.readout.bias for hidden in sequence], dim=1)
