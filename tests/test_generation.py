"""`generate` gives the ids of transformers 4.57.6: many random combinations, and the rules one by one."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import transformers

from seq2seq_models import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from seq2seq_models.core.outputs import BaseModelOutput
from seq2seq_models.errors import GenerationError, InputError
from seq2seq_models.pytorch.generation import LOOK_EVERY

from .combinations import CHUNK, COMBINATIONS, RULES, chunks, combination, source
from .tiny import FAMILIES, batch, close, ours_like, pair, reference, same_ids

FULL = "ForConditionalGeneration"
pytestmark = [pytest.mark.reference]
END = {"Pegasus": 1, "BlenderbotSmall": 2}
ONE_DRAW = {"do_sample": True, "max_new_tokens": 1, "forced_eos_token_id": None}
ONE_DRAW |= {"return_dict_in_generate": True, "output_scores": True}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("start", chunks())
def test_ids_equal_the_reference_on_random_combinations(family, start):
    lengths, close_calls = set(), 0
    for seed in range(start, start + CHUNK):
        theirs, mine = pair(family, seed=seed % 4)
        found, is_clear = same_ids(mine, theirs, *combination(seed, family))
        lengths.add(found.shape[1])
        close_calls += not is_clear
    assert len(lengths) > 3 and close_calls <= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_every_rule_is_in_many_combinations_with_another_beside_it(family):
    together: Counter[str] = Counter()
    for seed in range(COMBINATIONS):
        named = sorted(set(combination(seed, family)[1]) & RULES)
        together.update(named if len(named) > 1 else ())
    print(family, dict(together))
    assert set(together) == RULES and min(together.values()) >= 20


@pytest.mark.parametrize("family", FAMILIES)
def test_looking_less_often_changes_nothing(family, monkeypatch):
    """On a device the loop looks for the end every few steps; here the same on CPU."""
    _, mine = pair(family)
    lengths = set()
    for seed in range(12):
        inputs = source(seed, rows=2)
        options = {"max_new_tokens": 18, "forced_eos_token_id": None, "no_repeat_ngram_size": 1}
        free = mine.generate(**inputs, **options, eos_token_id=None)
        options["eos_token_id"] = [int(free[0, 2 + seed]), int(free[1, 14 - seed])]
        often = mine.generate(**inputs, **options)
        for every in (3, 8, 100):
            monkeypatch.setitem(LOOK_EVERY, "cpu", every)
            assert mine.generate(**inputs, **options).tolist() == often.tolist()
        monkeypatch.setitem(LOOK_EVERY, "cpu", 1)
        lengths.add(often.shape[1])
    assert len(lengths) > 3


@pytest.mark.parametrize("family", FAMILIES)
def test_the_resolved_settings_can_be_read(family):
    _, mine = pair(family)
    own = mine.generation_config
    try:
        mine.generation_config = GenerationConfig(num_beams=4, length_penalty=0.8)
        said = mine.describe_generation(GenerationConfig(no_repeat_ngram_size=3), max_new_tokens=7)
    finally:
        mine.generation_config = own
    lines = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line.strip()}
    assert lines["num_beams"][0] == "4" and lines["no_repeat_ngram_size"][0] == "3"
    assert lines["max_new_tokens"][0] == "7" and "argument" in " ".join(lines["max_new_tokens"])
    assert "top_p" not in lines
    with pytest.raises(GenerationError, match="num_beam"):
        mine.describe_generation(num_beam=3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("beams", [1, 4, 5])
def test_a_vocabulary_smaller_than_the_candidates(family, beams):
    theirs = reference(family, vocab_size=7)
    mine = ours_like(theirs)
    inputs = {"input_ids": torch.tensor([[3, 4, 5], [6, 1, 0]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
    for options in ({}, {"no_repeat_ngram_size": 2}, {"early_stopping": True, "length_penalty": 2.0}):
        options = {**options, "num_beams": beams, "max_new_tokens": 9}
        assert mine.generate(**inputs, **options).tolist() == theirs.generate(**inputs, **options).tolist()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("beams", [1, 3])
def test_every_word_ends_the_row(family, beams):
    theirs, mine = pair(family)
    options = {"num_beams": beams, "max_new_tokens": 9, "eos_token_id": list(range(83))}
    found = mine.generate(**source(3), **options)
    assert found.shape == (3, 2)
    if beams > 1:  # with as many ends as words, the reference asks for more candidates than there are
        options["eos_token_id"] = list(range(82))
        found = mine.generate(**source(3), **options)
    assert found.tolist() == theirs.generate(**source(3), **options).tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_hubs_settings(family):
    theirs, mine = pair(family)
    hub = {"num_beams": 8, "length_penalty": 0.8, "max_length": 30, "no_repeat_ngram_size": 3, "min_length": 8}
    found = mine.generate(**source(3), generation_config=GenerationConfig(**hub))
    expected = theirs.generate(**source(3), generation_config=transformers.GenerationConfig(**hub))
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 5, "temperature": 1.7},
        {"top_p": 0.6},
        {"top_p": 0.9, "top_k": 0, "min_p": 0.02},
        {"num_beams": 3, "top_k": 4},
        {"num_beams": 2, "top_p": 0.3, "temperature": 3.0, "renormalize_logits": True},
        {"typical_p": 0.5},
        {"typical_p": 0.2, "num_beams": 3, "top_k": 0},
        {"epsilon_cutoff": 0.02, "top_k": 0},
        {"eta_cutoff": 0.05, "top_k": 0, "num_beams": 2},
        {"eta_cutoff": 0.01, "temperature": 2.0},
        {"num_return_sequences": 4, "repetition_penalty": 1.5},
    ],
)
def test_sampling_draws_from_the_references_scores(family, options):
    """The rules of sampling give the reference's scores for what was drawn, and what was drawn has a chance there."""
    theirs, mine = pair(family)
    torch.manual_seed(11)
    options = {**options, **ONE_DRAW}
    for seed in range(6):
        prompt = batch(seed)["decoder_input_ids"]
        inputs = {**source(seed), "decoder_input_ids": prompt}
        a, b = theirs.generate(**inputs, **options), mine.generate(**inputs, **options)
        close(b.scores[0], a.scores[0])
        if "num_beams" not in options:
            rows = torch.arange(len(b.sequences))
            assert torch.isfinite(b.scores[0][rows, b.sequences[:, -1]]).all()


def expected_counts(scores, draws):
    return scores.double().softmax(-1) * draws


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [{}, {"top_k": 0, "top_p": 0.8}, {"temperature": 2.0, "top_k": 20}])
def test_sampling_follows_the_distribution(family, options):
    """24,000 draws of one token: a chi-square statistic within six standard deviations of its mean."""
    _, mine = pair(family)
    torch.manual_seed(5)
    options = {**options, **ONE_DRAW}
    out = mine.generate(**source(2, rows=1), num_return_sequences=24000, **options)
    counts = torch.bincount(out.sequences[:, -1], minlength=83).double()
    expected = expected_counts(out.scores[0][0], 24000)
    assert counts[expected == 0].sum() == 0
    likely = expected > 5
    assert likely.sum() > 3
    statistic = ((counts - expected) ** 2 / expected)[likely].sum()
    freedom = float(likely.sum() - 1)
    assert abs(float(statistic) - freedom) < 6 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_beam_sampling_follows_the_distribution(family):
    """The best of 20,000 first draws of two beams is as likely as the definition says."""
    _, mine = pair(family)
    torch.manual_seed(6)
    inputs = {name: value.repeat(2000, 1) for name, value in source(2, rows=1).items()}
    options = {**ONE_DRAW, "num_beams": 2, "top_k": 4, "length_penalty": 0.0, "eos_token_id": None}
    counts, expected = torch.zeros(83).double(), None
    for _ in range(10):
        out = mine.generate(**inputs, **options)
        counts += torch.bincount(out.sequences[:, -1], minlength=83)
        expected = out.scores[0][0].double().softmax(-1)
    # Four of four words are drawn in some order; the two drawn first count, and the better of those is returned.
    order = expected.argsort(descending=True)[:4]
    p = expected[order] / expected[order].sum()
    chance = torch.zeros(4).double()
    for i in range(4):
        for j in range(4):
            if i != j:
                chance[min(i, j)] += p[i] * p[j] / (1 - p[i])
    torch.testing.assert_close(counts[order] / 20000, chance, atol=0.02, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("beams", [1, 3])
def test_a_seed_repeats_a_row_whatever_the_other_rows_are(family, beams):
    _, mine = pair(family)
    options = {"do_sample": True, "max_new_tokens": 12, "top_k": 0, "temperature": 1.5, "num_beams": beams}

    def draw(rows, seed=3):
        torch.manual_seed(seed)
        ids = torch.cat([source(4)["input_ids"][:2], source(9, rows=4)["input_ids"]])[:rows]
        return mine.generate(ids, **options).tolist()

    two, six = draw(2), draw(6)
    assert two == draw(2) != draw(2, seed=4)
    for few, many in zip(two, six, strict=False):
        length = min(len(few), len(many))
        assert few[:length] == many[:length] and set(many[length:]) <= {0, 1}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("beams", [1, 4])
def test_everything_that_can_be_returned(family, beams):
    theirs, mine = pair(family)
    options = {
        "num_beams": beams,
        "max_new_tokens": 6,
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_logits": True,
        "output_hidden_states": True,
        "output_attentions": True,
        "no_repeat_ngram_size": 2,
    }
    theirs.set_attn_implementation("eager")
    expected, found = theirs.generate(**source(5), **options), mine.generate(**source(5), **options)
    theirs.set_attn_implementation("sdpa")
    assert set(found) == set(expected)
    assert found.sequences.tolist() == expected.sequences.tolist()
    for name in ("scores", "logits", "encoder_attentions", "encoder_hidden_states"):
        for x, y in zip(found[name], expected[name], strict=True):
            close(x, y, 2e-5)  # sums of log-probabilities over several steps
    for name in ("decoder_attentions", "cross_attentions", "decoder_hidden_states"):
        for step_found, step_expected in zip(found[name], expected[name], strict=True):
            for x, y in zip(step_found, step_expected, strict=True):
                assert x.shape == y.shape
                close(x, y, 2e-5)
    a = theirs.compute_transition_scores(
        expected.sequences, expected.scores, getattr(expected, "beam_indices", None), normalize_logits=beams == 1
    )
    b = mine.compute_transition_scores(
        found.sequences, found.scores, getattr(found, "beam_indices", None), normalize_logits=beams == 1
    )
    close(b, a, 2e-5)
    if beams > 1:
        close(found.sequences_scores, expected.sequences_scores)
        assert found.beam_indices.tolist() == expected.beam_indices.tolist()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("beams", [1, 3])
def test_a_padded_batch_gives_each_rows_own_result(family, beams):
    _, mine = pair(family)
    inputs = source(6, rows=3)
    together = mine.generate(**inputs, num_beams=beams, max_new_tokens=10)
    for row in range(3):
        length = int(inputs["attention_mask"][row].sum())
        alone = mine.generate(inputs["input_ids"][row : row + 1, :length], num_beams=beams, max_new_tokens=10)[0]
        assert together[row, : len(alone)].tolist() == alone.tolist()
        assert set(together[row, len(alone) :].tolist()) <= {0, 1}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("beams", [1, 3])
def test_other_ways_to_give_the_source(family, beams):
    theirs, mine = pair(family)
    inputs = source(7)
    expected = mine.generate(**inputs, num_beams=beams, max_new_tokens=8).tolist()
    unmasked = mine.generate(inputs["input_ids"], num_beams=beams, max_new_tokens=8)
    assert unmasked.tolist() == expected  # the mask follows from the padding
    encoded = mine.get_encoder()(**inputs)
    for outputs in (encoded, tuple(encoded.to_tuple()), BaseModelOutput(last_hidden_state=encoded[0])):
        found = mine.generate(
            encoder_outputs=outputs, attention_mask=inputs["attention_mask"], num_beams=beams, max_new_tokens=8
        )
        assert found.tolist() == expected
    embeds = mine.get_input_embeddings()(inputs["input_ids"]) * mine.get_encoder().embed_scale
    found = mine.generate(
        inputs_embeds=embeds, attention_mask=inputs["attention_mask"], num_beams=beams, max_new_tokens=8
    )
    assert found.tolist() == expected
    prompt = torch.tensor([[9, 8, 7], [6, 5, 4], [3, 4, 5]])
    prompted = {"decoder_input_ids": prompt, "num_beams": beams, "max_new_tokens": 8}
    prompted["decoder_attention_mask"] = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 1]])
    assert mine.generate(**inputs, **prompted).tolist() == theirs.generate(**inputs, **prompted).tolist()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("beams", [1, 3])
def test_the_users_own_processors_and_criteria(family, beams):
    theirs, mine = pair(family)

    def no_even(ids, scores):
        return scores.masked_fill(torch.arange(scores.shape[1]) % 2 == 0, -float("inf"))

    def long_enough(ids, scores, **_):
        return torch.full((ids.shape[0],), ids.shape[1] >= 6, dtype=torch.bool)

    options = {"num_beams": beams, "max_new_tokens": 12, "no_repeat_ngram_size": 2}
    found = mine.generate(
        **source(8),
        **options,
        logits_processor=LogitsProcessorList([no_even]),
        stopping_criteria=StoppingCriteriaList([long_enough]),
    )
    expected = theirs.generate(
        **source(8),
        **options,
        logits_processor=transformers.LogitsProcessorList([no_even]),
        stopping_criteria=transformers.StoppingCriteriaList([long_enough]),
    )
    assert found.tolist() == expected.tolist()
    assert found.shape[1] == 6

    def allowed(row, so_far):
        return [END[family], 10 + row, 20, 30 + len(so_far)]

    options["prefix_allowed_tokens_fn"] = allowed
    assert mine.generate(**source(8), **options).tolist() == theirs.generate(**source(8), **options).tolist()
    with pytest.raises(ValueError, match="at least one token, got none for row 0"):
        mine.generate(**source(8), prefix_allowed_tokens_fn=lambda row, ids: [])


@pytest.mark.parametrize("family", FAMILIES)
def test_beams_stream_the_prefix_they_agree_on(family):
    _, mine = pair(family)

    class Collect:
        def __init__(self):
            self.parts, self.ended = [], 0

        def put(self, ids):
            self.parts.append(ids.flatten().tolist())

        def end(self):
            self.ended += 1

    early = 0
    for seed in range(8):
        inputs = source(seed, rows=1)
        for beams in (1, 2, 4):
            streamer = Collect()
            ids = mine.generate(**inputs, num_beams=beams, max_new_tokens=15, streamer=streamer)
            assert [token for part in streamer.parts for token in part] == ids[0].tolist() and streamer.ended == 1
            early += beams > 1 and len(streamer.parts) > 2
    assert early > 4


@pytest.mark.parametrize("family", FAMILIES)
def test_stop_strings(family):
    _, mine = pair(family)

    class Letters:
        """Writes id i as a letter, so that strings span tokens."""

        def decode(self, ids):
            return "".join(chr(97 + int(i) % 26) for i in ids)

    free = mine.generate(**source(8), max_new_tokens=20)
    text = Letters().decode(free[0, 1:])
    stopped = mine.generate(**source(8), max_new_tokens=20, stop_strings=[text[4:7], "!"], tokenizer=Letters())
    end = text.index(text[4:7]) + 3
    assert Letters().decode(stopped[0, 1 : 1 + end]) == text[:end]
    assert set(stopped[0, 1 + end :].tolist()) <= {0}


@pytest.mark.parametrize("family", FAMILIES)
def test_max_time_stops(family):
    _, mine = pair(family)
    assert mine.generate(**source(9), max_time=0.0, max_new_tokens=30, num_beams=1).shape[1] == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_lengths(family):
    theirs, mine = pair(family)
    inputs = source(10)
    assert mine.generate(**inputs).tolist() == theirs.generate(**inputs).tolist()  # 20 new tokens by default
    assert mine.generate(**inputs, max_new_tokens=1).tolist() == theirs.generate(**inputs, max_new_tokens=1).tolist()
    assert mine.generate(**inputs, max_new_tokens=1, num_beams=3).shape == (3, 2)
    assert mine.generate(**inputs, max_length=None, max_new_tokens=4, min_new_tokens=4).shape == (3, 5)
    assert mine.generate(**inputs, max_length=38, min_length=38).shape == (3, 38)  # every position there is
    with pytest.raises(GenerationError, match="`max_length` must be at most 38 .*got 39"):
        mine.generate(**inputs, max_length=39)
    with pytest.raises(GenerationError, match="max_new_tokens"):
        mine.generate(**inputs, max_new_tokens=0)
    with pytest.raises(GenerationError, match="more than the 1 decoder tokens given, got 1"):
        mine.generate(**inputs, max_length=1)


@pytest.mark.parametrize("family", FAMILIES)
def test_bad_options_are_named_before_anything_runs(family, monkeypatch):
    _, mine = pair(family)
    monkeypatch.setattr(type(mine.model.encoder), "forward", lambda *a, **k: pytest.fail("computed something"))
    cases = {
        "num_beam": {"num_beam": 4},
        "token_type_ids": {"token_type_ids": torch.ones(3, 11)},
        "num_beams": {"num_beams": 0},
        "temperature": {"do_sample": True, "temperature": -1.0},
        "early_stopping": {"num_beams": 2, "early_stopping": "soon"},
        "num_return_sequences": {"num_beams": 2, "num_return_sequences": 3},
        "guidance_scale=3.0": {"guidance_scale": 3.0},
        "stop_strings": {"stop_strings": "end"},
        "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": -1},
        "`max_length` must be at most 38": {"max_length": 39},
        "more than the 1 decoder tokens given": {"max_new_tokens": 0},
        "decoder_input_ids": {"decoder_input_ids": torch.ones(1, 2, dtype=torch.long)},
        "must be one id or 3": {"decoder_start_token_id": [1, 2]},
        "neither|none of them": {"input_ids": None, "attention_mask": None, "bos_token_id": None},
        "got both": {"inputs": torch.ones(1, 2, dtype=torch.long)},
    }
    for message, options in cases.items():
        with pytest.raises((GenerationError, InputError), match=message):
            mine.generate(**{**source(11), **options})


@pytest.mark.parametrize("family", FAMILIES)
def test_unsuitable_inputs(family):
    _, mine = pair(family)
    with pytest.raises(InputError, match=r"integers \[B, S\], got torch.float32 \[1, 3\]"):
        mine.generate(torch.ones(1, 3))
    with pytest.raises(InputError, match="at most 37 positions .*got 40"):
        mine.generate(torch.ones(1, 40, dtype=torch.long))
    with pytest.raises(InputError, match="one row for each of 3 inputs, got 1"):
        mine.generate(**source(1), decoder_input_ids=torch.ones(1, 2, dtype=torch.long))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_given_configuration_takes_the_rest_from_the_model(family):
    theirs, mine = pair(family, seed=1)
    old = (mine.generation_config, theirs.generation_config)
    try:
        for version in ("4.27.0.dev0", "4.57.6"):
            settings = {"num_beams": 3, "no_repeat_ngram_size": 2, "max_length": 9, "eos_token_id": [5, END[family]]}
            special = {"decoder_start_token_id": 2, "pad_token_id": 0}
            mine.generation_config = GenerationConfig(**settings, **special, transformers_version=version)
            theirs.generation_config = transformers.GenerationConfig(
                **settings, **special, transformers_version=version
            )
            theirs.generation_config.transformers_version = version
            given = {"max_new_tokens": 7}
            found = mine.generate(**source(12), generation_config=GenerationConfig(**given))
            expected = theirs.generate(**source(12), generation_config=transformers.GenerationConfig(**given))
            assert found.tolist() == expected.tolist()
    finally:
        mine.generation_config, theirs.generation_config = old


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("beams", [1, 3])
def test_causal_models(family, beams):
    theirs, mine = pair(family, "ForCausalLM")
    prompt = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    options = {"attention_mask": mask, "num_beams": beams, "max_new_tokens": 8, "use_cache": False}
    expected = theirs.generate(prompt, **options).tolist()
    assert mine.generate(prompt, **options).tolist() == expected
    assert mine.generate(prompt, **{**options, "use_cache": True}).tolist() == expected
    memory = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(8))
    options = {"encoder_hidden_states": memory, "num_beams": beams, "max_new_tokens": 8}
    crossed = [mine.generate(prompt, **options, use_cache=cached).tolist() for cached in (True, False)]
    assert crossed[0] == crossed[1] != expected


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cross_cache_belongs_to_the_input(family):
    _, mine = pair(family)
    out = mine.generate(**source(13), num_beams=5, max_new_tokens=6, return_dict_in_generate=True)
    keys, _, cross_keys, _ = out.past_key_values[0]
    assert keys.shape[:2] == (15, 6) and cross_keys.shape == (3, 6, 11, 4)


def test_prepare_inputs_for_generation():
    _, mine = pair("Pegasus")
    ids = torch.tensor([[0, 4, 5]])
    encoded = mine.get_encoder()(**source(1, rows=1))
    first = mine(**mine.prepare_inputs_for_generation(ids[:, :2], encoder_outputs=encoded), use_cache=True)
    inputs = mine.prepare_inputs_for_generation(ids, first.past_key_values, encoder_outputs=encoded)
    assert inputs["decoder_input_ids"].tolist() == [[5]]
    full = mine(encoder_outputs=encoded, decoder_input_ids=ids)
    close(mine(**inputs).logits[:, -1], full.logits[:, -1])
