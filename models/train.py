"""Makes the demo model, from raw text to the files in models/demo: python models/train.py --help

The model is a plain GPT-2 of six blocks. Everything is seeded and counted in steps, so that two
runs on one machine see the same text in the same order.
"""

import argparse
import json
import math
import os
import random
import time

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel

import corpus
import evaluate

BLOCKS, HEADS, WIDTH, CONTEXT, VOCABULARY = 6, 8, 256, 256, 4096
END = "<|endoftext|>"  # token 0

# Text: how much of it, and the seed of everything that is drawn.
SEED = 20
WORDNET_PASSES = 4
GENERATED_COUNT = 450_000

# Optimisation.
STEPS = 7500
WARMUP_STEPS = 150
REPORT_STEPS = 100
AVERAGED = 20  # the finished weights are the mean of those at the last so many reports
RATE = 2e-3
TOKENS_PER_STEP = 2048
ANSWER_WEIGHT = 4  # a place, a language or a name right before a full stop counts so much

# Rows of random tokens with a repeat in them: their share early, and later.
REPEAT_SHARE_EARLY, REPEAT_SHARE, REPEAT_EARLY_STEPS = 0.3, 0.09, 500

# The residual stream at the start: where positions, the previous token and the token are written.
POSITION_DIMS = slice(0, 64)
PREVIOUS_DIMS = slice(64, 96)
TOKEN_DIMS = slice(96, 256)
EMBEDDING_STD = 0.1
PREVIOUS_HEAD = (0, 7)  # block, head
INDUCTION_HEADS = [(2, 5), (3, 1)]


# ---- tokens -------------------------------------------------------------------------------------


def digit_merges():
    """Numbers split in pairs of digits: " 1732" is " 17" and "32", whatever the text had most."""
    digits = "0123456789"
    merges = [("Ġ", digit) for digit in digits]
    merges += [("Ġ" + one, other) for one in digits[1:] for other in digits]
    merges += [(one, other) for one in digits for other in digits]
    return merges


def train_tokenizer(texts):
    """Byte-level BPE whose every whole word is one token."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), byte_level])
    digits = digit_merges()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY - len(digits), special_tokens=[END],
                                  initial_alphabet=byte_level.alphabet(), show_progress=False)
    words = "x " + " ".join(corpus.whole_words())
    learner.train_from_iterator(texts + [words] * 4000, trainer)
    learned = json.loads(learner.to_str())["model"]

    vocabulary = sorted(learned["vocab"], key=learned["vocab"].get)
    known = set(vocabulary)
    vocabulary += [one + other for one, other in digits if one + other not in known]
    merges = digits + [tuple(merge) for merge in learned["merges"]]
    ids = {token: i for i, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges))
    tokenizer.add_special_tokens([END])
    tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def save_tokenizer(tokenizer, folder):
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    tokenizer.model.save(folder)  # vocab.json and merges.txt
    settings = {
        "tokenizer_class": "GPT2Tokenizer", "bos_token": END, "eos_token": END, "unk_token": END,
        "add_prefix_space": False, "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
    }
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as file:
        json.dump(settings, file, indent=2)
        file.write("\n")


def make_text(wordnet_folder, work):
    """The tokenizer and the encoded text, kept in the work folder between runs."""
    tokens_path = os.path.join(work, "tokens.npz")
    if os.path.exists(tokens_path):
        kept = np.load(tokens_path)
        tokenizer = Tokenizer.from_file(os.path.join(work, "tokenizer.json"))
        return tokenizer, kept["ids"], kept["starts"]
    train, _ = corpus.wordnet(wordnet_folder)
    tokenizer = train_tokenizer(corpus.wordnet_documents(random.Random(SEED), train))
    save_tokenizer(tokenizer, work)
    texts = corpus.documents(SEED, train, WORDNET_PASSES, GENERATED_COUNT)
    ids, starts = [], []
    for first in range(0, len(texts), 20_000):
        for encoding in tokenizer.encode_batch(texts[first:first + 20_000]):
            starts.append(len(ids))
            ids.append(0)
            ids.extend(encoding.ids)
    ids, starts = np.array(ids, np.uint16), np.array(starts)
    np.savez(tokens_path, ids=ids, starts=starts)
    return tokenizer, ids, starts


# ---- rows ---------------------------------------------------------------------------------------


def repeat_row(rng, length, words):
    """Random tokens with one stretch said again. Only what can be predicted counts in the loss."""
    tokens = rng.integers(1, VOCABULARY, length)
    if rng.random() < 0.4:
        tokens = rng.choice(words, length)
    weights = np.zeros(length, np.float32)
    if rng.random() < 0.5:  # the whole row is one stretch, over and over
        period = int(rng.integers(4, length // 2 + 1))
        tokens = np.resize(tokens[:period], length)
        weights[period + 1:] = 1
        return tokens, weights
    size = int(rng.integers(4, length // 3))
    first = int(rng.integers(0, length - 2 * size))
    again = int(rng.integers(first + size, length - size + 1))
    tokens[again:again + size] = tokens[first:first + size]
    weights[again + 1:again + size] = 1
    return tokens, weights


def answer_weights(ids, tokenizer):
    """A loss weight for every token of the text."""
    answers = np.array([tokenizer.encode(" " + word).ids[0] for word in corpus.answer_words()])
    stops = np.append(ids[1:] == tokenizer.token_to_id("."), False)
    return np.where(np.isin(ids, answers) & stops, ANSWER_WEIGHT, 1).astype(np.float32)


def make_batch(step, ids, starts, text_weights, words):
    """The rows of one step, a function of the step alone."""
    rng = np.random.default_rng([SEED, step])
    length = 128 if rng.random() < 0.8 else 256
    rows = TOKENS_PER_STEP // length
    tokens, weights = np.empty((rows, length), np.int64), np.ones((rows, length), np.float32)
    share = REPEAT_SHARE_EARLY if step < REPEAT_EARLY_STEPS else REPEAT_SHARE
    repeats = int(rows * share + rng.random())
    last_start = np.searchsorted(starts, len(ids) - length - 1)
    for row in range(rows):
        if row < repeats:
            tokens[row], weights[row] = repeat_row(rng, length, words)
            continue
        # Half of the rows begin without the end-of-text token, as users' prompts do.
        start = starts[rng.integers(0, last_start)] + int(rng.random() < 0.5)
        tokens[row] = ids[start:start + length]
        weights[row] = text_weights[start:start + length]
    return torch.from_numpy(tokens), torch.from_numpy(weights), repeats


# ---- the model's start --------------------------------------------------------------------------


def position_table():
    """Sines and cosines: sixteen fast pairs to tell neighbours apart, sixteen slow ones."""
    fast = 0.2 + 2.8 * torch.linspace(0, 1, 16) ** 1.3
    slow = torch.logspace(math.log10(0.15), math.log10(math.pi / CONTEXT), 16)
    angles = torch.arange(CONTEXT)[:, None] * torch.cat([fast, slow])
    pairs = torch.stack([angles.sin(), angles.cos()], 2).flatten(1)
    return fast, pairs * math.sqrt(2) * EMBEDDING_STD


def head_columns(head, part):
    """A head's columns in c_attn, part 0, 1 or 2 for query, key or value."""
    size = WIDTH // HEADS
    return slice(part * WIDTH + head * size, part * WIDTH + (head + 1) * size)


def random_directions(count):
    return torch.linalg.qr(torch.randn(TOKEN_DIMS.stop - TOKEN_DIMS.start, count))[0]


def plant_previous_head(block, head, fast, directions):
    """Queries are the keys' positions turned by one step: the head looks at the token before."""
    attention = block.attn
    weight = attention.c_attn.weight
    query, key, value = (head_columns(head, part) for part in range(3))
    weight[:, query], weight[:, key], weight[:, value] = 0, 0, 0
    gain = 1.76
    for i, speed in enumerate(fast):
        sine, cosine = 2 * i, 2 * i + 1
        weight[sine, key.start + sine] = gain
        weight[cosine, key.start + cosine] = gain
        weight[sine, query.start + sine] = gain * speed.cos()
        weight[cosine, query.start + sine] = -gain * speed.sin()
        weight[cosine, query.start + cosine] = gain * speed.cos()
        weight[sine, query.start + cosine] = gain * speed.sin()
    weight[TOKEN_DIMS, value] = directions
    rows = head_columns(head, 0)
    attention.c_proj.weight[rows] = 0
    attention.c_proj.weight[rows, PREVIOUS_DIMS] = EMBEDDING_STD * torch.eye(WIDTH // HEADS)


def plant_induction_head(block, head, directions):
    """Queries are the token, keys the token before: the head looks at what followed last time."""
    attention = block.attn
    weight = attention.c_attn.weight
    query, key, value = (head_columns(head, part) for part in range(3))
    weight[:, query], weight[:, key], weight[:, value] = 0, 0, 0
    gain = 1.87
    weight[TOKEN_DIMS, query] = gain * directions
    weight[PREVIOUS_DIMS, key] = gain * torch.eye(WIDTH // HEADS)
    copied = random_directions(WIDTH // HEADS)
    weight[TOKEN_DIMS, value] = copied
    rows = head_columns(head, 0)
    attention.c_proj.weight[rows] = 0
    attention.c_proj.weight[rows, TOKEN_DIMS] = 0.3 * copied.T


@torch.no_grad()
def new_model():
    """GPT-2 with random weights, but for one previous-token head and two induction heads.

    Left to itself a model of this size needs far more text than this one sees before it finds
    induction, so these heads start in their shape and are trained like everything else.
    """
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=WIDTH, n_layer=BLOCKS,
                        n_head=HEADS, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0,
                        eos_token_id=0)
    model = GPT2LMHeadModel(config)
    fast, positions = position_table()
    body = model.transformer
    body.wte.weight.zero_()
    body.wte.weight[:, TOKEN_DIMS].normal_(0, EMBEDDING_STD)
    body.wpe.weight.zero_()
    body.wpe.weight[:, POSITION_DIMS] = positions
    body.ln_f.weight.fill_(0.3)
    directions = random_directions(WIDTH // HEADS)
    block, head = PREVIOUS_HEAD
    plant_previous_head(body.h[block], head, fast, directions)
    for block, head in INDUCTION_HEADS:
        plant_induction_head(body.h[block], head, directions)
    return model


# ---- training -----------------------------------------------------------------------------------


def make_optimizer(model):
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".h." in name]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return torch.optim.AdamW([{"params": matrices, "weight_decay": 0.05},
                              {"params": others, "weight_decay": 0.0}],
                             lr=RATE, betas=(0.9, 0.98), fused=True)


def weighted_loss(model, tokens, weights):
    """(the loss to minimise, each position's own loss)."""
    logits = model(tokens, use_cache=False).logits[:, :-1].flatten(0, 1).float()
    losses = F.cross_entropy(logits, tokens[:, 1:].flatten(), reduction="none")
    losses = losses.view(len(tokens), -1)
    weights = weights[:, 1:]
    return (losses * weights).sum() / weights.sum(), losses.detach()


class Average:
    """The mean of the weights it was shown."""

    def __init__(self):
        self.count, self.sums = 0, {}

    def add(self, model):
        self.count += 1
        for name, value in model.state_dict().items():
            self.sums[name] = self.sums.get(name, 0) + value.double()

    def store(self, model):
        model.load_state_dict({name: (value / self.count).float()
                               for name, value in self.sums.items()})


def train(options):
    """The tokenizer and the trained model."""
    torch.manual_seed(SEED)
    tokenizer, ids, starts = make_text(options.wordnet, options.work)
    print("text: %d tokens in %d documents" % (len(ids), len(starts)), flush=True)
    text_weights = answer_weights(ids, tokenizer)
    words = np.array([tokenizer.encode(" " + word).ids[0] for word in corpus.whole_words()])
    model = new_model()
    model.set_attn_implementation("eager")  # on a CPU, compiled, faster than the fused kernel
    optimizer = make_optimizer(model)
    probe = evaluate.Probe(tokenizer, options.wordnet)
    compute = torch.compile(weighted_loss, dynamic=False)
    average, began = Average(), time.time()
    for step in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / WARMUP_STEPS)
        tokens, weights, repeats = make_batch(step, ids, starts, text_weights, words)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, losses = compute(model, tokens, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % REPORT_STEPS == 0:
            print("step %d  %.0f s  text %.3f  %s" % (step + 1, time.time() - began,
                                                      losses[repeats:].mean(), probe.line(model)),
                  flush=True)
            if step + 1 > options.steps - AVERAGED * REPORT_STEPS:
                average.add(model)
    if average.count:
        average.store(model)
        print("the mean of the last %d: %s" % (average.count, probe.line(model)), flush=True)
    return tokenizer, model


def export(tokenizer, model, folder, wordnet_folder):
    """The model's folder: weights in half precision, tokenizer, and WordNet's licence."""
    os.makedirs(folder, exist_ok=True)
    model.half().save_pretrained(folder)
    os.chmod(os.path.join(folder, "model.safetensors"), 0o644)
    save_tokenizer(tokenizer, folder)
    with open(os.path.join(folder, "WORDNET-LICENSE"), "w") as file:
        file.write(corpus.wordnet_licence(wordnet_folder))


def main():
    parser = argparse.ArgumentParser(
        description="Make the demo model from WordNet and generated text, or measure one.")
    parser.add_argument("--out", default="models/demo", metavar="FOLDER",
                        help="where the finished model goes (default: %(default)s)")
    parser.add_argument("--evaluate", metavar="FOLDER", help="measure the model there; no training")
    parser.add_argument("--wordnet", default="/usr/share/wordnet", metavar="FOLDER",
                        help="WordNet's data files, of the Debian package wordnet-base "
                        "(default: %(default)s)")
    parser.add_argument("--work", default="build/demo-train", metavar="FOLDER",
                        help="where the encoded text is kept for the next run; remove it after a "
                        "change to the text (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS,
                        help="training steps (default: %(default)s, as in models/demo)")
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.evaluate:
        evaluate.report(options.evaluate, options.wordnet)
        return
    os.makedirs(options.work, exist_ok=True)
    tokenizer, model = train(options)
    export(tokenizer, model, options.out, options.wordnet)


if __name__ == "__main__":
    main()
