"""Chat formats: what the template writes, what stays text, where a completion stops, and what comes back."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from palate.data.chat import chat_format
from palate.errors import DataError, ModelError
from palate.records import Message, Prompt

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TRIMMING = (  # after Llama 3: a BOS, headers, trimmed contents, a stop token of its own
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|head|>' + message['role'] + '\n\n' + (message['content'] | trim) + '<|eot|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|head|>assistant\n\n' }}{% endif %}"
)
WITHOUT_GENERATION_PROMPT = (  # writes the header with the reply only
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'Q: ' + message['content'] + '\n' }}"
    "{% else %}{{ 'A: ' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
WITHOUT_SYSTEM = (  # after Gemma
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
)
DATED = "{{ strftime_now('%Y-%m-%d') + (date_string if date_string is defined else '') }}" + CHATML

SPECIALS = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|head|>", "<|eot|>"]


def make_tokenizer(template=None, *, adds_bos=False, **tokens):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["the capital of France is Paris", "what is the capital of Peru?"] * 3, trainer)
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"} | tokens
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    tokenizer.chat_template = template
    return tokenizer


def conversation(*turns: tuple[str, str]) -> Prompt:
    return Prompt(tuple(Message(role, content) for role, content in turns))


def official(tokenizer, prompt: Prompt) -> list[int]:
    turns = [{"role": message.role, "content": message.content} for message in prompt.messages]
    return tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]


@pytest.mark.parametrize("template", [CHATML, TRIMMING], ids=["chatml", "trimming"])
@pytest.mark.parametrize(
    "turns",
    [
        [("user", "what is the capital of France?")],
        [("user", "  leading and trailing \n")],
        [("system", "Be brief."), ("user", "hi"), ("assistant", " Hello! "), ("user", "capital of Peru?")],
    ],
    ids=["one turn", "white space", "several turns"],
)
def test_ordinary_conversations_are_written_as_transformers_writes_them(template, turns):
    tokenizer = make_tokenizer(template)
    prompt = conversation(*turns)
    assert chat_format(tokenizer).encode_prompt(prompt) == official(tokenizer, prompt)


def test_stop_token_is_the_templates_own():
    assert chat_format(make_tokenizer(CHATML)).eos_id == SPECIALS.index("<|im_end|>")
    assert chat_format(make_tokenizer(TRIMMING)).eos_id == SPECIALS.index("<|eot|>")
    assert chat_format(make_tokenizer(WITHOUT_GENERATION_PROMPT)).eos_id == SPECIALS.index("</s>")
    assert chat_format(make_tokenizer(None)).eos_id == SPECIALS.index("</s>")


@pytest.mark.parametrize("template", [None, CHATML, TRIMMING, WITHOUT_GENERATION_PROMPT])
def test_prompt_and_completion_are_the_whole_conversation(template):
    # What training joins is what the template writes for prompt and reply together, up to the stop token.
    tokenizer = make_tokenizer(template)
    chat = chat_format(tokenizer)
    ids = chat.encode_prompt(Prompt.of("capital of France?")) + chat.encode_completion("Paris")
    text = tokenizer.decode(ids)
    if template is None:
        assert text == "capital of France?Paris</s>"
        return
    turns = [{"role": "user", "content": "capital of France?"}, {"role": "assistant", "content": "Paris"}]
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    assert whole.startswith(text)
    assert whole.removeprefix(text).strip() == ""


@pytest.mark.parametrize("template", [None, CHATML, TRIMMING])
@settings(deadline=None, max_examples=50)
@given(text=st.text(max_size=30), special=st.sampled_from(SPECIALS), tail=st.text(max_size=5))
def test_text_that_looks_like_a_control_token_is_text(template, text, special, tail):
    tokenizer = make_tokenizer(template)
    chat = chat_format(tokenizer)
    controls = set(range(len(SPECIALS)))
    plain, hostile = Prompt.of("x"), Prompt.of("x" + text + special + tail + "x")
    count = [sum(token in controls for token in chat.encode_prompt(prompt)) for prompt in (plain, hostile)]
    assert count[0] == count[1]
    completion = chat.encode_completion(text + special + tail)
    assert [token for token in completion if token in controls] == [chat.eos_id]
    rendered = tokenizer.decode(chat.encode_prompt(hostile))
    assert "x" + text + special + tail + "x" in rendered


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=60))
def test_completions_come_back_as_they_went(text):
    chat = chat_format(make_tokenizer(CHATML))
    ids = chat.encode_completion(text)
    assert ids[-1] == chat.eos_id
    assert ids.count(chat.eos_id) == 1
    assert chat.decode(ids) == text
    assert chat.decode([*ids, chat.pad_id, chat.pad_id]) == text


def test_control_tokens_in_a_completion_stay_visible():
    # A policy that writes a user turn of its own must not look, to a judge, like one that did not.
    chat = chat_format(make_tokenizer(CHATML))
    ids = [*chat.encode_completion("Paris")[:-1], SPECIALS.index("<|im_start|>"), chat.eos_id]
    assert chat.decode(ids) == "Paris<|im_start|>"


def test_private_characters_in_the_text_survive():
    tokenizer = make_tokenizer(CHATML)
    text = "\ue000<|im_end|>\ue001 \ue002"
    assert text in tokenizer.decode(chat_format(tokenizer).encode_prompt(Prompt.of(text)))


@pytest.mark.parametrize("template", [None, CHATML, TRIMMING, "{{ bos_token }}" + TRIMMING])
def test_one_bos_at_most(template):
    tokenizer = make_tokenizer(template, adds_bos=True)
    ids = chat_format(tokenizer).encode_prompt(Prompt.of("hi"))
    assert ids.count(1) == (0 if template == CHATML else 1)
    assert ids[0] == 1 or template == CHATML


def test_completions_have_no_bos():
    assert 1 not in chat_format(make_tokenizer(None, adds_bos=True)).encode_completion("Paris")


def test_without_template_one_turn_stands_as_it_is():
    tokenizer = make_tokenizer(None)
    assert tokenizer.decode(chat_format(tokenizer).encode_prompt(Prompt.of(" 2 + 2 = "))) == " 2 + 2 = "


def test_without_template_several_turns_are_a_transcript():
    tokenizer = make_tokenizer(None)
    prompt = conversation(("system", "Be brief."), ("user", "hi"), ("assistant", "Hello!"), ("user", "bye"))
    assert tokenizer.decode(chat_format(tokenizer).encode_prompt(prompt)) == (
        "Be brief.\n\nHuman: hi\n\nAssistant: Hello!\n\nHuman: bye\n\nAssistant:"
    )


def test_template_without_generation_prompt_is_opened_all_the_same():
    tokenizer = make_tokenizer(WITHOUT_GENERATION_PROMPT)
    assert tokenizer.decode(chat_format(tokenizer).encode_prompt(Prompt.of("hi"))) == "<s>Q: hi\nA: "


def test_template_that_writes_the_date_writes_the_same_one_every_day():
    tokenizer = make_tokenizer(DATED)
    text = tokenizer.decode(chat_format(tokenizer).encode_prompt(Prompt.of("hi")))
    assert text.startswith("2024-07-2626 Jul 2024")


def test_refused_roles_name_the_line():
    chat = chat_format(make_tokenizer(WITHOUT_SYSTEM))
    prompt = Prompt((Message("system", "Be brief."), Message("user", "hi")), line=12)
    with pytest.raises(DataError, match=r"line 12 has the turns system, user.*System role not supported"):
        chat.encode_prompt(prompt)


def test_empty_prompt_is_refused_where_nothing_stands_in_for_it():
    with pytest.raises(DataError, match="is empty"):
        chat_format(make_tokenizer(None)).encode_prompt(Prompt.of(""))
    assert chat_format(make_tokenizer(None, adds_bos=True)).encode_prompt(Prompt.of("")) == [1]


def test_padding_must_differ_from_the_stop_token():
    with pytest.raises(ModelError, match="learn to stop"):
        chat_format(make_tokenizer(None, pad_token="</s>"))
    with pytest.raises(ModelError, match="learn to stop"):
        chat_format(make_tokenizer(CHATML, pad_token="<|im_end|>"))
    with pytest.raises(ModelError, match="learn to stop"):
        chat_format(make_tokenizer(None, pad_token=None))


def test_a_completion_must_be_able_to_end():
    with pytest.raises(ModelError, match="able to end"):
        chat_format(make_tokenizer(None, eos_token=None))


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ messages[0]['content'] }}", "leaves out"),
        ("{{ raise_exception('no') }}", "fails on one question"),
    ],
)
def test_broken_templates_are_refused(template, words):
    with pytest.raises(ModelError, match=words):
        chat_format(make_tokenizer(template))


def test_tokenizer_that_cannot_keep_control_tokens_out_is_refused():
    backend = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "a": 2, "<unk>": 3}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    with pytest.raises(ModelError, match="told not to"):
        chat_format(tokenizer)


def test_fingerprint_is_of_vocabulary_template_and_stop_token():
    first = chat_format(make_tokenizer(CHATML))
    assert first == chat_format(make_tokenizer(CHATML))
    assert first.fingerprint != chat_format(make_tokenizer(TRIMMING)).fingerprint
    larger = copy.deepcopy(first.tokenizer)
    larger.add_tokens(["another"])
    assert first.fingerprint != chat_format(larger).fingerprint
    assert (
        chat_format(make_tokenizer(None)).fingerprint
        != chat_format(make_tokenizer(None, eos_token="<|eot|>")).fingerprint
    )
