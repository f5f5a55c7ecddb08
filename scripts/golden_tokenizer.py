#!/usr/bin/env python3
"""Development only: writes tests/data/tokenizer_golden.json, what Hugging Face `tokenizers` makes of a corpus of nasty strings.
golden_tokenizer.py MODEL.gguf OUT.json      (pip install gguf tokenizers)"""
import json, random, sys
import gguf
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

reader = gguf.GGUFReader(sys.argv[1])
field = lambda name: reader.fields[name].contents()
tokens, types = field('tokenizer.ggml.tokens'), field('tokenizer.ggml.token_type')
merges = [tuple(m.split(' ')) for m in field('tokenizer.ggml.merges')]
tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
tokenizer.decoder = decoders.ByteLevel()
plain = Tokenizer.from_str(tokenizer.to_str())
tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, types) if k == 3])

corpus = ['', ' ', '  ', '\n', '\r\n', '\t\t', 'a', ' a', 'a ', '   leading', 'trailing   ', 'two  spaces', ' \n \n  x', 'Hello, world!',
          "it's we'll they've I'm you'd don't IT'S WE'LL", "'s 't 're", '1234567890', 'v1.2.3-rc4', '3.14159e-10', '½ ² Ⅷ ٣ 五', 'naïve café Zürich',
          'é vs é', '👩‍👩‍👧‍👦 👍🏽 🇨🇭', 'שלום عالم', '東京タワー', '안녕하세요', '\u200b\u200d\ufeff', '\x00\x01\x7f', 'a\u00a0b\u2003c\u3000d',
          'def f(x):\n    return x ** 2  # ok\n', '{"a": [1, 2, {"b": null}]}', '<|im_start|>user\nhi<|im_end|>\n', '<|im_start|', '<|endoftext|>',
          'x' * 300, ' ' * 100 + 'x', '\n' * 50, '!?' * 60, 'https://example.org/a?b=c&d=%20', '\u0378\ue000', 'ﬁ ﬀ ſ ß İ ı', 'a\u0301\u0323']
rnd = random.Random(1)
alphabet = list('abc ABC 019 \n\t\'"!?<|>') + ['é', '日', '👍', '\u0301', '\u00a0', 'ß', 'Ⅷ', '\r', '\u2028', "'s", ' the']
corpus += [''.join(rnd.choice(alphabet) for _ in range(rnd.randrange(1, 40))) for _ in range(300)]
for first in (0x20, 0xa0, 0x2c0, 0x600, 0x1680, 0x2000, 0x3000, 0xd7b0, 0x1d400, 0x1f600):
    corpus += [chr(c) + 'a' for c in range(first, first + 48) if not 0xd800 <= c < 0xe000]
out = [{'hex': s.encode().hex(), 'plain': plain.encode(s).ids, 'special': tokenizer.encode(s).ids} for s in corpus]
json.dump({'about': 'SmolLM2 vocabulary, Hugging Face tokenizers; plain: added tokens not recognised', 'cases': out}, open(sys.argv[2], 'w'), separators=(',', ':'))
print(len(out), 'cases')
