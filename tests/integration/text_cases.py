"""Text encoders of Hugging Face transformers, for architecture_answers.py: every kind with every
head, with and without padding in the batch. `full` has the sizes of the published networks."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
import transformers  # noqa: E402
from architecture_answers import Case  # noqa: E402
from torch import nn  # noqa: E402

TITLE = "Text encoders"

HEADS = 4
VOCABULARY = 120

# What the classes of a kind begin with, by its model_type.
KINDS = {
    "bert": "Bert",
    "distilbert": "DistilBert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "camembert": "Camembert",
    "mpnet": "MPNet",
}
FAMILIES = {"xlm-roberta": "roberta", "camembert": "roberta"}


def family(kind):
    """What the catalog calls it."""
    return FAMILIES.get(kind, kind)


def config(kind, full=False, **settings):
    make = getattr(transformers, KINDS[kind] + "Config")
    published = {} if kind in ("bert", "distilbert") else {"layer_norm_eps": 1e-5}
    if full:
        if family(kind) == "roberta":
            # XLM-R's own vocabulary alone would take a gigabyte.
            published |= {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
        if kind == "mpnet":
            published["max_position_embeddings"] = 514
        return make(**(published | settings))
    # From a few hundred features on, a product and its bias in one operator are rounded otherwise
    # than in two.
    small = {"vocab_size": VOCABULARY, "max_position_embeddings": 48}
    if kind == "distilbert":
        small |= {"dim": 256, "hidden_dim": 512, "n_layers": 2, "n_heads": HEADS}
    else:
        small |= {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
                  "num_attention_heads": HEADS}  # fmt: skip
    if family(kind) == "roberta":
        small["type_vocab_size"] = 1
    return make(**(small | published | settings))


def network(kind, head, full=False, **settings):
    """As transformers makes it; `head` as its classes are called: "Model", ..."""
    name = KINDS[kind] + head
    return getattr(transformers, name)(config(kind, full, **settings))


def mean_of_tokens(hidden, mask):
    """As sentence-transformers has it."""
    weights = mask.unsqueeze(-1).expand(hidden.size()).to(hidden.dtype)
    return torch.sum(hidden * weights, 1) / torch.clamp(weights.sum(1), min=1e-9)


def greatest_of_tokens(hidden, mask):
    weights = mask.unsqueeze(-1).expand(hidden.size()).to(hidden.dtype)
    hidden = hidden.clone()
    hidden[weights == 0] = -1e9
    return torch.max(hidden, 1)[0]


POOLING = {"mean": mean_of_tokens, "cls": lambda hidden, mask: hidden[:, 0],
           "max": greatest_of_tokens}  # fmt: skip


def named(kind, inputs):
    names = ["input_ids", "attention_mask"] + ["token_type_ids"] * (kind == "bert")
    return dict(zip(names, inputs))


def answers(kind):
    def call(module, inputs):
        output = module(**named(kind, inputs))
        return [tensor for tensor in output.to_tuple()]

    return call


def sentence(kind, pooling, normalise):
    def call(module, inputs):
        hidden = module(**named(kind, inputs)).last_hidden_state
        pooled = POOLING[pooling](hidden, inputs[1])
        return nn.functional.normalize(pooled, p=2, dim=1) if normalise else pooled

    return call


def texts(kind, lengths, vocabulary=VOCABULARY):
    """Token ids without the padding's, filled up with it; the mask; and types."""

    def make(generator):
        padding = 0 if kind in ("bert", "distilbert") else 1
        longest = max(lengths)
        ids = torch.randint(3, vocabulary, (len(lengths), longest), generator=generator)
        mask = torch.zeros_like(ids)
        for row, length in enumerate(lengths):
            ids[row, length:] = padding
            mask[row, :length] = 1
        types = torch.randint(0, 2, ids.shape, generator=generator)
        return [ids, mask] + [types] * (kind == "bert")

    return make


def cases(full):
    made = []

    def add(kind, what, head="Model", lengths=(7, 12, 3), call=None, parameters=None, **settings):
        parameters = dict(parameters or {})
        if not full and kind != "mpnet":
            parameters["num_attention_heads"] = str(HEADS)
        made.append(Case(
            f"{kind}: {what}", make=lambda: network(kind, head, full, **settings),
            inputs=texts(kind, lengths), call=call or answers(kind), detected=family(kind),
            architecture=family(kind) if parameters else "", parameters=parameters))  # fmt: skip

    for kind in KINDS:
        add(kind, "tokens")
        add(kind, "tokens, no padding", lengths=(9, 9))
        add(kind, "mean of tokens, normalised", call=sentence(kind, "mean", True),
            parameters={"head": "sentence", "normalize": "true"})  # fmt: skip
        add(kind, "sequence classification", "ForSequenceClassification", num_labels=5)
        add(kind, "token classification", "ForTokenClassification", num_labels=7)
        if full:
            continue
        add(kind, "longest text", lengths=(45, 46, 44))
        for pooling in ("mean", "cls", "max"):
            add(kind, pooling, call=sentence(kind, pooling, False),
                parameters={"head": "sentence", "pooling": pooling})  # fmt: skip
    if not full:
        for activation in ("gelu_new", "gelu_pytorch_tanh", "relu", "silu"):
            add("bert", activation, hidden_act=activation, parameters={"hidden_act": activation})
        add("roberta", "padding 3", pad_token_id=3, parameters={"pad_token_id": "3"})
        add("bert", "epsilon", layer_norm_eps=1e-3, parameters={"layer_norm_eps": "0.001"})
    return made
