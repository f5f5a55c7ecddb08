#!/usr/bin/env python3
"""Development only: what Hugging Face `tokenizers` and `sentencepiece` make of a corpus of nasty strings.
golden_tokenizer.py MODEL.gguf tests/data/tokenizer_golden.json     SmolLM2's own vocabulary
golden_tokenizer.py families tests/data/tokenizer_families.json     small vocabularies trained here, one for each kind
(pip install gguf tokenizers sentencepiece protobuf)"""
import io, json, pathlib, random, re, sys, tempfile
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

corpus = ['', ' ', '  ', '\n', '\r\n', '\t\t', 'a', ' a', 'a ', '   leading', 'trailing   ', 'two  spaces', ' \n \n  x', 'Hello, world!',
          "it's we'll they've I'm you'd don't IT'S WE'LL", "'s 't 're", '1234567890', 'v1.2.3-rc4', '3.14159e-10', '½ ² Ⅷ ٣ 五', 'naïve café Zürich',
          'é vs é', '👩‍👩‍👧‍👦 👍🏽 🇨🇭', 'שלום عالم', '東京タワー', '안녕하세요', '\u200b\u200d\ufeff', '\x00\x01\x7f', 'a\u00a0b\u2003c\u3000d',
          'def f(x):\n    return x ** 2  # ok\n', '{"a": [1, 2, {"b": null}]}', '<|im_start|>user\nhi<|im_end|>\n', '<|im_start|', '<|endoftext|>',
          'x' * 300, ' ' * 100 + 'x', '\n' * 50, '!?' * 60, 'https://example.org/a?b=c&d=%20', '\u0378\ue000', 'ﬁ ﬀ ſ ß İ ı', 'a\u0301\u0323']
rnd = random.Random(1)
alphabet = list('abc ABC 019 \n\t\'"!?<|>') + ['é', '日', '👍', '\u0301', '\u00a0', 'ß', 'Ⅷ', '\r', '\u2028', "'s", ' the']


def nonsense(count, letters):
    return [''.join(rnd.choice(letters) for _ in range(rnd.randrange(1, 40))) for _ in range(count)]


def smollm2(model, out):
    import gguf
    reader = gguf.GGUFReader(model)
    field = lambda name: reader.fields[name].contents()
    tokens, types = field('tokenizer.ggml.tokens'), field('tokenizer.ggml.token_type')
    merges = [tuple(m.split(' ')) for m in field('tokenizer.ggml.merges')]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    plain = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, types) if k == 3])
    texts = corpus + nonsense(300, alphabet)
    for first in (0x20, 0xa0, 0x2c0, 0x600, 0x1680, 0x2000, 0x3000, 0xd7b0, 0x1d400, 0x1f600):
        texts += [chr(c) + 'a' for c in range(first, first + 48) if not 0xd800 <= c < 0xe000]
    cases = [{'hex': s.encode().hex(), 'plain': plain.encode(s).ids, 'special': tokenizer.encode(s).ids} for s in texts]
    json.dump({'about': 'SmolLM2 vocabulary, Hugging Face tokenizers; plain: added tokens not recognised', 'cases': cases}, open(out, 'w'), separators=(',', ':'))
    print(len(cases), 'cases')


# --- small vocabularies -------------------------------------------------------------------------------------------------

llama3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
upper, lower = r'[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]', r'[\p{Ll}\p{Lm}\p{Lo}\p{M}]'


def cased(suffix, digits):
    start = r'[^\r\n\p{L}\p{N}]?'
    return rf'{start}{upper}*{lower}+{suffix}|{start}{upper}+{lower}*{suffix}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+'


# tokenizer.ggml.pre -> the published pattern (None: ByteLevel's own), whether whole words of the vocabulary are taken first
families = {'gpt-2': (None, False), 'smollm': ('digits', False), 'llama-bpe': (llama3, True), 'glm4': (llama3, False),
            'qwen2': (llama3.replace(r'\p{N}{1,3}', r'\p{N}'), False), 'tekken': (cased('', r'\p{N}'), True),
            'gpt-4o': (cased("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", r'\p{N}{1,3}'), False)}


def training_text():
    english = pathlib.Path('/usr/share/common-licenses/GPL-3').read_text()[:30000]  # as Debian has it
    other = 'def f(x):\n  return [x ** 2 for x in (1, 23, 456)]\nнаука и жизнь\n東京タワー 北京 你好，世界！\nnaïve café, São Paulo\nשלום عالم 안녕하세요\n'
    return re.sub(' {3,}', '  ', english) + 20 * other


def byte_level(texts):
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(llama3), 'isolated'), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    trained.train_from_iterator(training_text().splitlines(True), trainers.BpeTrainer(vocab_size=480, show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    model = json.loads(trained.to_str())['model']
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(' ')) for m in model['merges']]
    tokens = [t for t, _ in sorted(model['vocab'].items(), key=lambda x: x[1])]
    # Whole words that no merges lead to, and added tokens.
    added = {'<|im_start|>': 3, '<|im_end|>': 3, '<think>': 4}
    tokens += [t for t in ('ĠHello', 'world', "'s", '123', 'ĠÃ©', 'Ċ') if t not in model['vocab']] + list(added)
    vocabulary = {'tokens': tokens, 'types': [added.get(t, 1) for t in tokens], 'merges': [' '.join(m) for m in merges]}
    cases = {}
    for pre, (pattern, whole) in families.items():
        tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges, ignore_merges=whole))
        own = pattern in (None, 'digits')
        steps = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=own)]
        if pattern == 'digits':
            steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
        elif pattern:
            steps.insert(0, pre_tokenizers.Split(Regex(pattern), 'isolated'))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
        tokenizer.add_tokens([AddedToken('<think>', special=False, normalized=False)])
        cases[pre] = [tokenizer.encode(s).ids for s in texts]
    return vocabulary, cases


def train(**options):
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2
    out = io.BytesIO()
    rules = tempfile.NamedTemporaryFile('w', suffix='.tsv')  # full-width to ASCII, a ligature, a composition, a wide blank, a letter to nothing
    rules.write('FF0C\t2C\nFF01\t21\nFB01\t66 69\n61 301\tE1\n3000\t20\n200B\t\n')
    rules.flush()
    if options.pop('rules', False):
        options['normalization_rule_tsv'] = rules.name
    else:
        options['normalization_rule_name'] = 'identity'
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(training_text().splitlines()), model_writer=out, vocab_size=options.pop('size', 560),
                                             character_coverage=0.99, hard_vocab_limit=False, num_threads=1, minloglevel=2, max_sentence_length=100000, **options)
    model = sentencepiece_model_pb2.ModelProto.FromString(out.getvalue())
    spec = sentencepiece_model_pb2.TrainerSpec(model_type=model.trainer_spec.model_type, byte_fallback=model.trainer_spec.byte_fallback)
    model.trainer_spec.CopyFrom(spec)  # without the names of files
    model.normalizer_spec.ClearField('normalization_rule_tsv')
    for piece in model.pieces:
        piece.score = round(piece.score, 2)  # the training of unigrams differs in the last digits from run to run
    return model


def encode(model, texts):
    import sentencepiece
    return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString()).encode(texts)


def as_table(model, texts):
    pieces = model.pieces
    # A GGUF file has user-defined tokens with blanks as they are.
    return {'tokens': [p.piece.replace('▁', ' ') if p.type == 4 else p.piece for p in pieces], 'types': [p.type for p in pieces],
            'scores': [p.score for p in pieces], 'add_space_prefix': model.normalizer_spec.add_dummy_prefix, 'cases': encode(model, texts)}


def as_file(model, texts):
    return {'file': model.SerializeToString().hex(), 'cases': encode(model, texts)}


def chatglm(texts):
    """The published steps before sentencepiece: line ends, tabs, runs of blanks as tokens."""
    blanks = [f'<|blank_{n}|>' for n in range(2, 81)]
    model = train(model_type='bpe', byte_fallback=True, rules=True, size=700, remove_extra_whitespaces=False,
                  user_defined_symbols=['<n>', '<|tab|>'] + blanks, control_symbols=['[MASK]', '[gMASK]', '[sMASK]', '<sop>', '<eop>'])

    def prepared(text):
        text = text.replace('\n', '<n>').replace('\t', '<|tab|>')
        for n in range(80, 1, -1):
            text = text.replace(' ' * n, f'<|blank_{n}|>')
        return text
    return {'file': model.SerializeToString().hex(), 'cases': encode(model, [prepared(t) for t in texts])}


def small(out):
    texts = [t[:60] if len(set(t)) < 4 else t for t in corpus] + ['HTTPServer\'S camelCase//\n\r\n', "it'ſ '\u017f", 'a\u180eb \u180e \u0085c', 'Hello Hello world 123 é\n<think>\n\n</think>\n\n',
             '，！ﬁ\u200ba\u0301 \u3000 x \u3000', '<s>a</s><unk><0x41>', ' ▁▁ a', 'a\n\n\nb\n\n\n\n    c   d', '<table><td>', ' ' * 170 + '\t\n ']
    letters = alphabet + ['，', '\u3000', '/', 'in', ' of', '  ', '<think>']
    texts += nonsense(60, letters)
    vocabulary, cases = byte_level(texts)
    defined = ['\n', '\n\n', '▁▁', '▁▁▁', '▁▁▁▁', '<table>']
    unused = train(model_type='bpe', byte_fallback=True, remove_extra_whitespaces=False)
    for piece in list(unused.pieces)[260:520:5]:
        if piece.type == 1 and len(piece.piece) > 1: piece.type = 5
    rough = [t.encode().hex() for t in texts]
    data = {'about': 'Small vocabularies trained on the calibration text; ids by Hugging Face tokenizers (byte level) and sentencepiece',
            'corpus': rough, 'byte_level': {**vocabulary, 'cases': cases},
            'tables': {'llama': as_table(train(model_type='bpe', byte_fallback=True, remove_extra_whitespaces=False), texts),
                       'gemma': as_table(train(model_type='bpe', byte_fallback=True, remove_extra_whitespaces=False, add_dummy_prefix=False, user_defined_symbols=defined), texts),
                       'prefix and user-defined': as_table(train(model_type='bpe', remove_extra_whitespaces=False, size=300, user_defined_symbols=defined), texts),
                       'unused': as_table(unused, texts)},
            'files': {'bpe, normalised': as_file(train(model_type='bpe', rules=True, size=300), texts),
                      'unigram, normalised': as_file(train(model_type='unigram', rules=True, size=300, user_defined_symbols=['<table>']), texts),
                      'unigram, bytes': as_file(train(model_type='unigram', byte_fallback=True, remove_extra_whitespaces=False), texts),
                      'chatglm': chatglm(texts)}}
    text = re.sub(r'(-?\d+\.\d{3,})', lambda m: f'{float(m[1]):.9g}', json.dumps(data, separators=(',', ':'), ensure_ascii=False))
    open(out, 'w').write(text + '\n')
    print(len(texts), 'texts', len(text), 'bytes')


if __name__ == '__main__':
    small(sys.argv[2]) if sys.argv[1] == 'families' else smollm2(sys.argv[1], sys.argv[2])
