"""Diverse beams, contrastive search and assisted decoding.

The first two are held to what transformers 4.51.3 generated, see goldens/make_goldens.py; assisted decoding to what the
model writes alone.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from functools import cache

import pytest
import torch

import seq2seq_models
from seq2seq_models import GenerationConfig
from seq2seq_models.core.decoding import plan
from seq2seq_models.errors import GenerationError, InputError
from seq2seq_models.pytorch.assisted import accept
from seq2seq_models.pytorch.cache import DynamicCache, EncoderDecoderCache, StaticCache
from seq2seq_models.pytorch.decoder import EagerDecoder

from .goldens.make_goldens import END, FAMILIES, GOLDENS, OWN, SIZES, fill

SEQ2SEQ, CAUSAL = "ForConditionalGeneration", "ForCausalLM"
STORED = json.loads(GOLDENS.read_text(encoding="utf-8"))
GROUPS = {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 1.5}
CONTRAST = {"penalty_alpha": 0.6, "top_k": 4}
SMALLER = {"d_model": 12, "decoder_layers": 1, "encoder_layers": 1, "encoder_attention_heads": 2}
SMALLER |= {"decoder_attention_heads": 3, "decoder_ffn_dim": 20, "encoder_ffn_dim": 28}
EVERYTHING = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
EVERYTHING |= {"output_attentions": True, "output_hidden_states": True}


@cache
def model(family, head=SEQ2SEQ, seed=0, **sizes):
    """A model with weights drawn by name; shared between tests, so not to be changed."""
    config = getattr(seq2seq_models, family + "Config")(**{**SIZES, **OWN[family], **sizes})
    return fill(getattr(seq2seq_models, family + head)(config), seed)


def close(found, expected, tolerance=2e-5):
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def source(seed, rows=1, length=9):
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 83, (rows, length), generator=draw)
    for row in range(rows):
        ids[row, length - (2 * row) % length :] = 0 if row else ids[row, length:]
    return ids


def first_end_for_all(rows, end):
    """The reference shows the first end token for whichever one ended a beam."""
    return [[end[0] if token in end else token for token in row] for row in rows]


# ---- diverse beams and contrastive search against transformers 4.51.3


def test_the_goldens_come_from_the_last_version_that_holds_these_strategies():
    assert STORED["versions"]["transformers"] == "4.51.3"
    for strategy in ("groups", "contrastive"):
        for family in FAMILIES:
            cases = [case for case in STORED["cases"] if (case["strategy"], case["family"]) == (strategy, family)]
            assert len(cases) == 150 and sum(case["head"] == CAUSAL for case in cases) == 30
            assert len({len(row) for case in cases for row in case["ids"]}) > 5


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("strategy", ["groups", "contrastive"])
def test_ids_and_scores_equal_the_reference(strategy, family, use_cache):
    cases = [case for case in STORED["cases"] if (case["strategy"], case["family"]) == (strategy, family)]
    for number, case in enumerate(cases):
        mine = model(family, case["head"], case["seed"], vocab_size=case["vocabulary"])
        inputs = {name: torch.tensor(value) for name, value in case["inputs"].items()}
        asked = {"use_cache": use_cache, "return_dict_in_generate": True, "output_scores": True}
        out = mine.generate(**inputs, **case["options"], **asked)
        ids, end = out.sequences.tolist(), case["options"].get("eos_token_id")
        if strategy == "groups" and isinstance(end, list):
            ids, case["ids"] = first_end_for_all(ids, end), first_end_for_all(case["ids"], end)
        assert ids == case["ids"], (number, case["options"])
        if strategy == "groups":
            close(out.sequences_scores, torch.tensor(case["scores"]), 3e-5)  # rounded to 5 decimals
        else:
            new = ids[0][-len(out.scores) :]
            is_end = [token in (end or [END[family]]) for token in new]
            ours = [float(step[0, token]) for step, token in zip(out.scores, new, strict=True)]
            length = is_end.index(True) + 1 if True in is_end else len(new)  # after its end a row says nothing
            close(torch.tensor(ours[:length]), torch.tensor(case["scores"][:length]), 2e-4)  # rounded to 4 decimals


# ---- diverse beams


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("use_cache", [True, False])
def test_scores_and_beam_indices_of_groups_say_where_tokens_came_from(family, use_cache):
    """Upstream's beam indices count within the first group, so nothing can be computed from them."""
    mine = model(family)
    for seed, penalty in enumerate([1.0, 0.0, 2.0]):
        options = {**GROUPS, "num_return_sequences": 6, "length_penalty": penalty, "max_new_tokens": 12}
        options["sequence_bias"] = [[[END[family]], 3.0]]
        out = mine.generate(source(seed, rows=3), **options, **EVERYTHING, use_cache=use_cache)
        assert out.sequences.shape[0] == 18 and out.scores[0].shape == out.logits[0].shape == (18, 83)
        transitions = mine.compute_transition_scores(out.sequences, out.scores, out.beam_indices)
        lengths = (out.beam_indices >= 0).sum(1)
        close(transitions.sum(1) / lengths**penalty, out.sequences_scores)
        assert (out.beam_indices.div(6, rounding_mode="floor") == torch.arange(3).repeat_interleave(6)[:, None])[
            out.beam_indices >= 0
        ].all()
        assert len(out.decoder_attentions) == len(out.scores) == len(out.cross_attentions)
        assert out.decoder_hidden_states[0][0].shape == (18, 1, 24)


@pytest.mark.parametrize("family", FAMILIES)
def test_groups_differ_by_the_penalty_and_by_nothing_else(family):
    mine, ids = model(family), source(4, rows=2)
    beams = {"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 6, "min_new_tokens": 6}
    alone = mine.generate(ids, **beams).view(2, 2, -1)
    alike = {"num_beams": 6, "num_beam_groups": 3, "num_return_sequences": 6, "diversity_penalty": 1e-6}
    together = mine.generate(ids, **{**beams, **alike}).view(2, 6, -1)
    for row in range(2):
        assert {tuple(beam) for beam in together[row].tolist()} == {tuple(beam) for beam in alone[row].tolist()}
    apart = mine.generate(ids, **{**beams, **alike, "num_beam_groups": 6, "diversity_penalty": 1e3}).view(2, 6, -1)
    for row in range(2):
        for column in range(1, 6):  # the last token is the end that all are forced to
            assert len(set(apart[row, :, column].tolist())) == 6


@pytest.mark.parametrize("family", FAMILIES)
def test_groups_keep_one_cross_cache_per_input(family):
    out = model(family).generate(source(1, rows=2), **GROUPS, max_new_tokens=5, return_dict_in_generate=True)
    keys, _, cross_keys, _ = out.past_key_values[0]
    assert keys.shape[0] == 12 and cross_keys.shape[0] == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_groups_stop_when_a_criterion_holds_for_all_beams(family):
    def long_enough(ids, scores, **_):
        return torch.full((len(ids),), ids.shape[1] >= 5, dtype=torch.bool)

    mine, options = model(family), {**GROUPS, "max_new_tokens": 12, "min_new_tokens": 12}
    ids = mine.generate(source(2, rows=2), **options, stopping_criteria=[long_enough])
    assert ids.shape == (2, 5) and not (ids[:, 1:] == END[family]).any()
    rows = []
    mine.generate(source(2, rows=2), **options, prefix_allowed_tokens_fn=lambda row, _: rows.append(row) or [5, 6, 7])
    assert rows[:12] == [0, 0, 1, 1] * 3


# ---- contrastive search


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", [SEQ2SEQ, CAUSAL])
def test_contrastive_search_is_the_papers_formula(family, head):
    """Every token, found again from whole forward passes, one candidate at a time."""
    mine, ids = model(family, head), source(3, rows=2)
    written = mine.generate(ids, **CONTRAST, attention_mask=torch.ones_like(ids), max_new_tokens=7, min_new_tokens=7)
    start = ids.shape[1] if head == CAUSAL else 1

    def states(tokens, row):
        if head == CAUSAL:
            out = mine(tokens, output_hidden_states=True)
            return out.logits[0, -1], out.hidden_states[-1][0]
        out = mine(ids[row : row + 1], decoder_input_ids=tokens, output_hidden_states=True)
        return out.logits[0, -1], out.decoder_hidden_states[-1][0]

    with torch.no_grad():
        for row in range(2):
            for length in range(start, start + 6):
                logits, _ = states(written[row : row + 1, :length], row)
                logits[END[family]] = -float("inf")
                best, words = logits.softmax(-1).topk(4)
                values = []
                for chance, word in zip(best, words, strict=True):
                    _, hidden = states(torch.cat([written[row : row + 1, :length], word[None, None]], 1), row)
                    likeness = torch.cosine_similarity(hidden[-1:], hidden[:-1]).max()
                    values.append(0.4 * float(chance) - 0.6 * float(likeness))
                assert int(written[row, length]) == int(words[values.index(max(values))])


@pytest.mark.parametrize("family", FAMILIES)
def test_contrastive_search_returns_what_each_token_was_chosen_from(family):
    mine = model(family)
    for seed in range(3):
        options = {**CONTRAST, "max_new_tokens": 7, **EVERYTHING}
        out = mine.generate(source(seed, rows=2), **options)
        slow = mine.generate(source(seed, rows=2), **options, low_memory=True)
        bare = mine.generate(source(seed, rows=2), **options, use_cache=False)
        neither = mine.generate(source(seed, rows=2), **options, use_cache=False, low_memory=True)
        for other in (slow, bare, neither):
            assert other.sequences.tolist() == out.sequences.tolist()
            for name in ("scores", "logits"):
                close(torch.stack(other[name]), torch.stack(out[name]))
        attention_mask = (source(seed, rows=2) != 0).long()
        whole = mine(
            source(seed, rows=2),
            attention_mask=attention_mask,
            decoder_input_ids=out.sequences,
            output_hidden_states=True,
            output_attentions=True,
        )
        new = len(out.scores)
        assert new == out.sequences.shape[1] - 1 == len(out.decoder_attentions) == len(out.decoder_hidden_states)
        going = out.sequences[:, 1:] != 0  # a row that is over goes on with what it would have said
        for step in range(new):
            rows = going[:, step]
            close(out.logits[step][rows], whole.logits[rows, step])
            for found in (out, slow):
                for layer in range(3):
                    own = found.decoder_attentions[step][layer]
                    assert own.shape == (2, 6, 1, step + 1)
                    close(own[rows], whole.decoder_attentions[layer][rows, :, step : step + 1, : step + 1])
                    cross = found.cross_attentions[step][layer]
                    close(cross[rows], whole.cross_attentions[layer][rows, :, step : step + 1])
                    hidden = found.decoder_hidden_states[step][layer]
                    close(hidden[rows], whole.decoder_hidden_states[layer][rows, step : step + 1])
            for layer in range(3):
                own = bare.decoder_attentions[step][layer]
                assert own.shape == (2, 6, step + 1, step + 1)
                close(own[rows], whole.decoder_attentions[layer][rows, :, : step + 1, : step + 1])
        for found in (out, slow):
            assert found.past_key_values.get_seq_length() == new
            assert found.past_key_values[0][0].shape[0] == found.past_key_values[0][2].shape[0] == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_a_very_small_alpha_is_greedy_search_and_more_candidates_than_words_are_all_words(family):
    mine, ids = model(family), source(5, rows=2)
    greedy = mine.generate(ids, max_new_tokens=9)
    assert mine.generate(ids, max_new_tokens=9, penalty_alpha=1e-9, top_k=3).tolist() == greedy.tolist()
    assert mine.generate(ids, max_new_tokens=9, penalty_alpha=0.0).tolist() == greedy.tolist()
    every, more = (mine.generate(ids, max_new_tokens=9, penalty_alpha=0.7, top_k=k).tolist() for k in (83, 200))
    assert every == more


@pytest.mark.parametrize("family", FAMILIES)
def test_contrastive_search_uses_every_position_and_no_more(family):
    mine = model(family)
    assert mine.generate(source(6), **CONTRAST, max_length=37, min_length=37).shape == (1, 37)
    with pytest.raises(
        GenerationError, match=r"`max_length` must be at most 37 \(max_position_embeddings 37\), got 38"
    ):
        mine.generate(source(6), **CONTRAST, max_length=38)


# ---- assisted decoding


class Collect:
    def __init__(self):
        self.tokens, self.ended = [], 0

    def put(self, ids):
        self.tokens += ids.flatten().tolist()

    def end(self):
        self.ended += 1


def assistants(family, head, seed):
    """A smaller one, one with few positions, and the model itself."""
    yield model(family, head, seed, **SMALLER)
    yield model(family, head, seed + 1, max_position_embeddings=12, **SMALLER)
    yield model(family, head, seed)


def greedy_combination(seed, family):
    draw = random.Random(seed)
    options = {"max_new_tokens": draw.choice([1, 2, 5, 8, 13, 20])}
    if draw.random() < 0.4:
        options["no_repeat_ngram_size"] = draw.choice([1, 2, 3])
    if draw.random() < 0.4:
        options["repetition_penalty"] = draw.choice([0.7, 1.3, 2.0])
    if draw.random() < 0.4:
        options["min_new_tokens"] = draw.randrange(1, options["max_new_tokens"] + 1)
    if draw.random() < 0.4:
        options["eos_token_id"] = [END[family], *draw.sample(range(3, 83), 8)]
    if draw.random() < 0.3:
        options["forced_bos_token_id"] = draw.randrange(3, 83)
    if draw.random() < 0.3:
        options["use_cache"] = False
    if draw.random() < 0.3:
        options["sequence_bias"] = [[[END[family]], 4.0]]
    drafting = {"num_assistant_tokens": draw.choice([1, 2, 5, 20])}
    drafting["num_assistant_tokens_schedule"] = draw.choice(["constant", "heuristic", "heuristic_transient"])
    drafting["assistant_confidence_threshold"] = draw.choice([0.0, 0.01, 0.4])
    return options, drafting


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", [SEQ2SEQ, CAUSAL])
def test_greedy_output_is_the_models_own_whatever_the_assistant(family, head):
    lengths = set()
    for seed in range(30):
        mine, ids = model(family, head, seed % 3), source(seed, length=[1, 6][seed % 2])
        options, drafting = greedy_combination(seed, family)
        alone = mine.generate(ids, **options)
        lengths.add(alone.shape[1])
        for assistant in assistants(family, head, seed % 3):
            assert mine.generate(ids, **options, **drafting, assistant_model=assistant).tolist() == alone.tolist()
    assert len(lengths) > 4


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", [SEQ2SEQ, CAUSAL])
@pytest.mark.parametrize("use_cache", [True, False])
def test_assisted_decoding_returns_what_the_model_alone_returns(family, head, use_cache):
    mine, ids = model(family, head), source(7)
    options = {"max_new_tokens": 9, "no_repeat_ngram_size": 2, "use_cache": use_cache, **EVERYTHING}
    alone = mine.generate(ids, **options)
    for assistant in assistants(family, head, 0):
        out = mine.generate(ids, **options, assistant_model=assistant, assistant_confidence_threshold=0.0)
        assert set(out) == set(alone) and out.sequences.tolist() == alone.sequences.tolist()
        for name in set(out) - {"sequences", "past_key_values", "scores", "logits"}:
            for found, expected in zip(out[name], alone[name], strict=True):
                for x, y in zip(found, expected, strict=True):
                    assert (x is None and y is None) or close(x, y) is None
        for name in ("scores", "logits"):
            close(torch.stack(out[name]), torch.stack(alone[name]))
        if use_cache:
            assert out.past_key_values.get_seq_length() == out.sequences.shape[1] - 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_good_assistant_saves_runs_and_its_encoder_runs_once(family, monkeypatch):
    mine, twin, ids = model.__wrapped__(family), model.__wrapped__(family), source(8)
    runs = {}
    for who, part in (("model", mine), ("assistant", twin)):
        for name in ("decoder", "encoder"):
            room = getattr(part.model, name)
            monkeypatch.setattr(room, "forward", counted(runs, (who, name), room.forward))
    options = {"max_new_tokens": 20, "min_new_tokens": 20, "assistant_model": twin}
    drafting = {"num_assistant_tokens": 4, "assistant_confidence_threshold": 0.0}
    mine.generate(ids, **options, **drafting)
    once = {("model", "encoder"): 1, ("assistant", "encoder"): 1}
    # The same weights, so every draft is right: 5 tokens a time, 4 of them drafted.
    assert runs == {**once, ("model", "decoder"): 4, ("assistant", "decoder"): 16}
    runs.clear()
    mine.generate(ids, **options, **drafting, num_assistant_tokens_schedule="heuristic_transient")
    assert runs == {**once, ("model", "decoder"): 3, ("assistant", "decoder"): 17}  # drafts of 4, 6 and 7
    runs.clear()
    mine.generate(ids, **options, **{**drafting, "assistant_confidence_threshold": 1.0})
    assert runs == {**once, ("model", "decoder"): 10, ("assistant", "decoder"): 10}  # one token a draft


def counted(runs, key, real):
    def forward(*args, **kwargs):
        runs[key] = runs.get(key, 0) + 1
        return real(*args, **kwargs)

    return forward


def test_the_assistants_own_settings_count_where_the_call_has_none():
    mine, assistant = model("Pegasus"), model.__wrapped__("Pegasus")
    assistant.generation_config = GenerationConfig(
        num_assistant_tokens=3,
        num_assistant_tokens_schedule="heuristic",
        assistant_confidence_threshold=0.0,
        decoder_start_token_id=0,
    )
    mine.generate(source(1), assistant_model=assistant, max_new_tokens=4, min_new_tokens=4)
    assert assistant.generation_config.num_assistant_tokens == 5  # all 3 were right: kept for the next call
    mine.generate(source(1), assistant_model=assistant, max_new_tokens=4, num_assistant_tokens=7)
    assert assistant.generation_config.num_assistant_tokens == 5
    assert assistant.generate(source(1), max_new_tokens=3).shape == (1, 4)  # alone, they have no effect


@pytest.mark.parametrize("family", FAMILIES)
def test_assisted_tokens_are_streamed_and_criteria_stop_between_them(family):
    mine, ids = model(family), source(9)
    for assistant in assistants(family, SEQ2SEQ, 0):
        streamer = Collect()
        found = mine.generate(
            ids,
            assistant_model=assistant,
            assistant_confidence_threshold=0.0,
            max_new_tokens=15,
            min_new_tokens=15,
            streamer=streamer,
            stopping_criteria=[lambda ids, scores: ids.shape[1] >= 8],
        )
        assert found.shape == (1, 8) and streamer.tokens == found[0].tolist() and streamer.ended == 1
    streamer = Collect()
    found = mine.generate(ids, **CONTRAST, max_new_tokens=5, streamer=streamer)
    assert streamer.tokens == found[0].tolist() and streamer.ended == 1


def test_accepted_and_drawn_tokens_follow_the_models_distribution():
    """200,000 rows of two drafts: each of the 125 outcomes within five standard deviations of its chance."""
    draw = torch.Generator().manual_seed(3)
    rows, words = 200_000, 5
    wanted = torch.randn(1 + words + words**2, words, generator=draw).mul(1.5).softmax(-1)
    drafted = torch.randn(1 + words, words, generator=draw).mul(1.5).softmax(-1)
    wanted[0, 2] = drafted[0, 4] = 0.0  # impossible for one of the two
    wanted, drafted = wanted / wanted.sum(-1, keepdim=True), drafted / drafted.sum(-1, keepdim=True)
    first = torch.multinomial(drafted[:1].expand(rows, -1), 1, generator=draw)[:, 0]
    second = torch.multinomial(drafted[1 + first], 1, generator=draw)[:, 0]
    after_two = wanted[1 + words + first * words + second]
    p = torch.stack([wanted[:1].expand(rows, -1), wanted[1 + first], after_two], 1)
    q = torch.stack([drafted[:1].expand(rows, -1), drafted[1 + first]], 1)
    kept, token = accept(p, q, torch.stack([first, second], 1), draw)
    a = torch.where(kept > 0, first, token)

    def on(chances):  # where drafts ended early, the model alone goes on
        return torch.multinomial(chances, 1, generator=draw)[:, 0]

    b = torch.where(kept > 1, second, torch.where(kept == 1, token, on(wanted[1 + a])))
    c = torch.where(kept > 1, token, on(wanted[1 + words + a * words + b]))
    counts = torch.bincount((a * words + b) * words + c, minlength=words**3).double()
    pairs = (wanted[0][:, None] * wanted[1 : 1 + words]).flatten()
    expected = (pairs[:, None] * wanted[1 + words :]).flatten().double() * rows
    assert counts[expected == 0].sum() == 0
    assert ((counts - expected).abs() <= 5 * (expected + 1).sqrt()).all()
    assert {0, 1, 2} == set(kept.tolist())


@pytest.mark.heavy
def test_assisted_sampling_follows_the_models_distribution():
    """21,000 tokens: each one's place in the distribution it was drawn from is uniform (chi-square over 20 bins)."""
    torch.manual_seed(1)
    places = []
    for seed in range(700):
        family = FAMILIES[seed % 2]
        mine, assistant = model(family), model(family, seed=1, **SMALLER)
        out = mine.generate(
            source(seed % 50),
            assistant_model=assistant,
            do_sample=True,
            top_k=20,
            temperature=1.5,
            max_new_tokens=30,
            eos_token_id=None,
            forced_eos_token_id=None,
            num_assistant_tokens=4,
            assistant_confidence_threshold=0.05,
            return_dict_in_generate=True,
            output_scores=True,
        )
        chances = torch.cat(out.scores).double().softmax(-1)
        tokens = out.sequences[0, 1:, None]
        own = chances.gather(1, tokens)
        below = chances.cumsum(1).gather(1, tokens) - own
        places.append((below + torch.rand(own.shape, dtype=torch.float64) * own)[:, 0])
    places = torch.cat(places)
    assert len(places) == 21_000
    counts = torch.histc(places, 20, 0.0, 1.0)
    statistic = float(((counts - 1050) ** 2 / 1050).sum())
    assert abs(statistic - 19) < 5 * (2 * 19) ** 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_assisted_sampling_repeats_from_a_seed(family):
    mine, assistant = model(family), model(family, seed=1, **SMALLER)
    options = {"do_sample": True, "temperature": 2.0, "max_new_tokens": 15, "assistant_model": assistant}

    def draw(seed):
        torch.manual_seed(seed)
        return mine.generate(source(2), **options).tolist()

    assert draw(1) == draw(1) != draw(2)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", [SEQ2SEQ, CAUSAL])
def test_batches_with_drafts_are_those_of_greedy_search(family, head):
    """All rows go on by what the row with the fewest right drafts keeps; rows end at different places."""
    lengths = set()
    for seed in range(12):
        mine, ids = model(family, head, seed % 3), source(seed, rows=3)
        first = mine.generate(ids, max_new_tokens=18, forced_eos_token_id=None)
        ends = [int(first[0, -9]), int(first[1, -4])]
        options = {"max_new_tokens": 18, "forced_eos_token_id": None, "eos_token_id": ends}
        options |= {"no_repeat_ngram_size": 2} if seed % 2 else {}
        expected = mine.generate(ids, **options)
        helper = {"assistant_model": model(family, head, (seed + seed % 2) % 3), "num_assistant_tokens": 4}
        helper["assistant_confidence_threshold"] = 0.0
        assert mine.generate(ids, **options, **helper).tolist() == expected.tolist(), seed
        for size in (None, 1, 3):
            lookup = {"prompt_lookup_num_tokens": 5, "max_matching_ngram_size": size}
            assert mine.generate(ids, **options, **lookup).tolist() == expected.tolist(), (seed, size)
        lengths.add(expected.shape[1])
    assert len(lengths) > 3


def test_what_is_copied_is_read_at_once(monkeypatch):
    """A model that copies its source, rigged by what it is given as scores, reads it in drafts."""
    mine, ids = model("Pegasus"), torch.arange(10, 22)[None]  # each token stands once: what follows it is known
    wanted = ids[0, :10].tolist()

    def copies(so_far, scores):
        scores = torch.full_like(scores, -1e9)
        scores[:, wanted[min(so_far.shape[1] - 1, 9)]] = 0.0
        return scores

    runs, read = [], EagerDecoder.read
    monkeypatch.setattr(EagerDecoder, "read", lambda *args: (runs.append(args[1].shape[1]), read(*args))[1])
    options = {"max_new_tokens": 10, "logits_processor": [copies], "eos_token_id": None, "forced_eos_token_id": None}
    assert mine.generate(ids, **options)[0, 1:].tolist() == wanted
    assert runs == [1] * 10
    runs.clear()
    assert mine.generate(ids, **options, prompt_lookup_num_tokens=4)[0, 1:].tolist() == wanted
    assert runs == [1, 5, 4]


def test_sampling_with_lookup_follows_the_models_distribution():
    torch.manual_seed(0)
    mine = model("Pegasus")
    options = {"do_sample": True, "max_new_tokens": 3, "eos_token_id": None, "forced_eos_token_id": None, "top_k": 4}
    ids = source(1, rows=1)
    counts = [Counter(), Counter()]
    for _ in range(300):
        for count, more in zip(
            counts, ({}, {"prompt_lookup_num_tokens": 2, "max_matching_ngram_size": 1}), strict=True
        ):
            count[tuple(mine.generate(ids, **options, **more)[0, 1:].tolist())] += 1
    alone, helped = counts
    apart = sum(abs(alone[key] - helped[key]) for key in alone | helped) / 600
    assert apart < 0.25 and len(alone) > 3


# ---- what does not go together


@pytest.mark.parametrize("family", FAMILIES)
def test_options_that_do_not_go_together_are_named_before_anything_runs(family, monkeypatch):
    mine = model(family)
    other = next(name for name in FAMILIES if name != family)
    monkeypatch.setattr(type(mine.model.encoder), "forward", lambda *a, **k: pytest.fail("computed something"))
    assistant, streamer = model(family, **SMALLER), Collect()
    cases = [
        (GROUPS | {"streamer": streamer}, "`streamer` must be None with `num_beam_groups` = 3"),
        (GROUPS | {"do_sample": True}, "`do_sample` must be false with `num_beam_groups` = 3"),
        (GROUPS | {"diversity_penalty": 0.0}, "`diversity_penalty` must be above 0 with `num_beam_groups` = 3"),
        (GROUPS | {"num_beams": 4}, "`num_beams` must be a multiple of `num_beam_groups` = 3, got 4"),
        (GROUPS | {"num_beams": 1}, "`num_beams` must be a multiple of `num_beam_groups` = 3, got 1"),
        ({"num_beams": 4, "diversity_penalty": 1.0}, "`diversity_penalty` must be 0 with `num_beam_groups` = 1"),
        (GROUPS | {"stop_strings": "x", "tokenizer": 1}, "`stop_strings` must be None with `num_beam_groups` = 3"),
        (GROUPS | {"assistant_model": assistant}, "`assistant_model` must be None with `num_beams` = 6"),
        (GROUPS | {"penalty_alpha": 0.5}, "`num_beams` must be 1 with `penalty_alpha` = 0.5, got 6"),
        (CONTRAST | {"do_sample": True}, "`do_sample` must be false with `penalty_alpha` = 0.6"),
        (CONTRAST | {"top_k": 1}, "`top_k` must be at least 2 with `penalty_alpha` = 0.6, got 1"),
        (CONTRAST | {"top_k": None}, "`top_k` must be at least 2 with `penalty_alpha` = 0.6, got None"),
        (CONTRAST | {"num_return_sequences": 2}, "`num_return_sequences` must be 1 with neither beams nor"),
        (CONTRAST | {"assistant_model": assistant}, "`assistant_model` must be None with `penalty_alpha` = 0.6"),
        ({"low_memory": True}, "`low_memory` must be unset without `penalty_alpha`"),
        ({"num_assistant_tokens": 4}, "`num_assistant_tokens` must be unset without `assistant_model`"),
        (
            {"assistant_model": assistant, "do_sample": True, "num_return_sequences": 2},
            "`assistant_model` must be None with `num_return_sequences` = 2",
        ),
        ({"assistant_model": "small"}, "`assistant_model` must be a model of this library, got str"),
        ({"assistant_model": model(family, vocab_size=84)}, "must have vocab_size = 83, got 84"),
        ({"assistant_model": model(family, CAUSAL)}, "must have is_encoder_decoder = True, got False"),
        ({"assistant_model": model(other)}, "`assistant_model` must have model_type = "),
        ({"assistant_model": assistant, "prompt_lookup_num_tokens": 3}, "with `prompt_lookup_num_tokens` = 3"),
        ({"num_beams": 2, "prompt_lookup_num_tokens": 3}, "`num_beams` must be 1 with `prompt_lookup_num_tokens` = 3"),
        (CONTRAST | {"prompt_lookup_num_tokens": 3}, "`penalty_alpha` must be None with `prompt_lookup_num_tokens`"),
        ({"max_matching_ngram_size": 3}, "must be unset without `prompt_lookup_num_tokens`"),
    ]
    for options, said in cases:
        with pytest.raises(GenerationError) as error:
            mine.generate(source(1), **options)
        assert said in str(error.value), (options, str(error.value))
    with pytest.raises(
        GenerationError, match="`assistant_model` goes with one input at a time where `do_sample` is true, got 2"
    ):
        mine.generate(source(1, rows=2), assistant_model=assistant, do_sample=True)
    with pytest.raises(GenerationError, match="`prompt_lookup_num_tokens` goes with one input at a time"):
        mine.generate(source(1, rows=2), prompt_lookup_num_tokens=3, do_sample=True)
    with pytest.raises(InputError, match="`assistant_model` needs `input_ids`, got none"):
        mine.generate(encoder_outputs=(torch.ones(1, 3, 24),), assistant_model=assistant)


def test_a_causal_assistant_that_cannot_read_the_states_is_refused():
    mine, prompt = model("Pegasus", CAUSAL), source(1)
    states = torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(1))
    with pytest.raises(GenerationError, match="must have d_model = 24 as `encoder_hidden_states` have, got 12"):
        mine.generate(prompt, encoder_hidden_states=states, assistant_model=model("Pegasus", CAUSAL, **SMALLER))
    options = {"encoder_hidden_states": states, "max_new_tokens": 6}
    helped = mine.generate(prompt, **options, assistant_model=model("Pegasus", CAUSAL, 1))
    assert helped.tolist() == mine.generate(prompt, **options).tolist()


# ---- edges


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [GROUPS, CONTRAST])
def test_a_padded_batch_gives_each_rows_own_result(family, options):
    mine, ids = model(family), source(10, rows=3)
    together = mine.generate(ids, **options, max_new_tokens=8)
    for row in range(3):
        alone = mine.generate(ids[row : row + 1, : int((ids[row] != 0).sum())], **options, max_new_tokens=8)[0]
        assert together[row, : len(alone)].tolist() == alone.tolist()
        assert set(together[row, len(alone) :].tolist()) <= {0}


@pytest.mark.parametrize("family", FAMILIES)
def test_more_beams_than_words(family):
    """Twelve beams over seven words: what does not exist yet ranks below everything that does."""
    mine = model(family, vocab_size=7)
    options = {"num_beams": 12, "num_beam_groups": 2, "diversity_penalty": 0.5, "num_return_sequences": 12}
    ids = torch.tensor([[3, 4, 5], [6, 3, 0]])
    out = mine.generate(ids, **options, max_new_tokens=3, return_dict_in_generate=True, output_scores=True)
    assert len(out.sequences) == 24 and (out.sequences_scores > -1e3).all()
    assert (out.sequences_scores.view(2, 12).diff(dim=1) <= 0).all()


def test_caches_forget():
    """`crop` keeps the first positions, or leaves out the last; `keep` keeps one position per row."""
    tensor = torch.arange(2 * 3 * 5 * 4.0).view(2, 3, 5, 4)
    own = (DynamicCache(), StaticCache(max_cache_len=6))
    for made in (*own, EncoderDecoderCache(StaticCache(max_cache_len=6)), EncoderDecoderCache()):
        made.crop(3)  # nothing to forget yet
        for layer in range(2):
            made.update(tensor, tensor + 1, layer)
            made.set_cross(tensor, tensor, layer)
        made.crop(9)
        assert made.get_seq_length() == 5
        made.keep(2, torch.tensor([0, 2]))
        assert made.get_seq_length() == 3
        for layer in range(2):
            keys, values, *cross = made[layer]
            assert keys.equal(torch.stack([tensor[0, :, [0, 1, 2]], tensor[1, :, [0, 1, 4]]]))
            assert values.equal(keys + 1)
            assert all(one.equal(tensor) for one in cross)
        made.crop(-1)
        assert made.get_seq_length() == 2 == made[1][0].shape[2]
        keys, _ = made.update(tensor[:, :, :1], tensor[:, :, :1], 0)
        assert keys.equal(torch.cat([tensor[:, :, :2], tensor[:, :, :1]], 2))
        made.crop(-9)
        assert made.get_seq_length() == 0


def test_the_rule_of_diversity_is_in_the_plan():
    config = GenerationConfig(**GROUPS, max_new_tokens=3)
    found = plan(config, model("Pegasus").config, 1, max_length_given=False)
    assert [rule.option for rule in found.rules] == ["diversity_penalty"]
