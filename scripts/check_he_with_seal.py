#!/usr/bin/env python3
"""Development only: gives the polynomials of one answer of src/he to Microsoft SEAL.

    pip install seal-python numpy
    PERMLLM_HE_POLYNOMIALS=/tmp/he.txt build/release/tests/he_reference_test --gtest_filter='*another_library*'
    scripts/check_he_with_seal.py /tmp/he.txt

Checked: SEAL takes N = 4096, the two primes and every t at 128 bits, and refuses one prime more; SEAL decrypts the public key to
zero and the query to X^-j and 0; SEAL's plain products of the query's blocks and the table's, added, are the library's sum in every
coefficient; SEAL decrypts that sum, and the sum with an encryption of zero, to X^-j T, with the noise that our bounds allow.
"""
import math
import os
import struct
import sys
import tempfile

import seal

N = 4096
MORE = 0x1FFFE300000001  # a third prime: SEAL keeps the last one for keys and computes modulo the others


def parameters(primes, t):
    p = seal.EncryptionParameters(seal.scheme_type.bfv)
    p.set_poly_modulus_degree(N)
    p.set_coeff_modulus([seal.Modulus(q) for q in primes])
    p.set_plain_modulus(seal.Modulus(t))
    return p


def at_roots(x, p):
    """Values at psi^(2 brv(i) + 1), psi the least root of order 2 N: the order in which SEAL keeps a secret key."""
    g = next(g for g in range(2, 1000) if pow(g, (p - 1) // 2, p) == p - 1)
    root = pow(g, (p - 1) // (2 * N), p)
    square, least, power = root * root % p, root, root
    for _ in range(N):
        least, power = min(least, power), power * square % p
    powers = [pow(least, int(f"{i:012b}"[::-1], 2), p) for i in range(N)]
    x, half, m = [v % p for v in x], N // 2, 1
    while half:
        for i in range(m):
            w = powers[m + i]
            for j in range(2 * i * half, (2 * i + 1) * half):
                turned = x[j + half] * w % p
                x[j], x[j + half] = (x[j] + turned) % p, (x[j] - turned) % p
        half, m = half // 2, m * 2
    return x


class Seal:
    def __init__(self, primes, t, secret):
        self.context = seal.SEALContext(parameters(primes + [MORE], t), True, seal.sec_level_type.none)
        assert self.context.parameters_set()
        self.folder = tempfile.mkdtemp()
        generator = seal.KeyGenerator(self.context)
        encryptor = seal.Encryptor(self.context, generator.create_public_key())
        self.frame = self.saved(encryptor.encrypt(seal.Plaintext("1")))
        assert len(self.frame) > 4 * N * 8
        self.evaluator = seal.Evaluator(self.context)
        self.decryptor = seal.Decryptor(self.context, self.secret_key(primes + [MORE], secret))

    def path(self):
        return os.path.join(self.folder, "object")

    def saved(self, thing):
        thing.save(self.path(), seal.compr_mode_type.none)
        with open(self.path(), "rb") as f:
            return f.read()

    def secret_key(self, primes, secret):
        """SEAL saves a secret key as a plaintext of the key's level: parms_id, count, scale, array."""
        words = [v for p in primes for v in at_roots(secret, p)]
        data = struct.pack(f"<Q{len(words)}Q", len(words), *words)
        version = self.frame[3:5]
        head = lambda size: b"\x5e\xa1\x10" + version + b"\0\0\0" + struct.pack("<Q", 16 + size)
        array = head(len(data)) + data
        body = struct.pack("<4QQd", *self.context.key_context_data().parms_id(), len(words), 1.0) + array
        with open(self.path(), "wb") as f:
            f.write(head(len(body)) + body)
        key = seal.SecretKey()
        key.load(self.context, self.path())
        return key

    def ciphertext(self, c0, c1):
        """Both polynomials modulo both primes are the end of what SEAL saves, uncompressed."""
        assert len(c0) == len(c1) == 2 * N
        data = struct.pack(f"<{4 * N}Q", *c0, *c1)
        c = seal.Ciphertext()
        c.load_bytes(self.context, self.frame[: -len(data)] + data)
        return c

    def words(self, ciphertext):
        return list(struct.unpack(f"<{4 * N}Q", self.saved(ciphertext)[-4 * N * 8 :]))

    def decrypted(self, ciphertext):
        out = [0] * N
        text = self.decryptor.decrypt(ciphertext).to_string()
        for term in text.split(" + "):
            value, _, exponent = term.partition("x^")
            out[int(exponent or 0)] = int(value, 16)
        return out


def times_monomial(x, j, t):
    """x X^-j."""
    out = [0] * N
    for i, v in enumerate(x):
        k = i - j
        out[k % N] = v % t if k >= 0 else -v % t
    return out


def check(name, good):
    print(("ok      " if good else "WRONG   ") + name)
    if not good:
        sys.exit(1)


def main(path):
    with open(path) as f:
        data = {line.split(" ", 1)[0]: [int(v) for v in line.split()[1:]] for line in f}
    primes, (bits, index) = data["primes"], data["plain_bits_and_index"]
    t, block, j = 1 << bits, index // N, index % N
    part = lambda name, b: data[name][2 * N * b : 2 * N * (b + 1)]

    for b in range(9, 19):
        context = seal.SEALContext(parameters(primes, 1 << b), True, seal.sec_level_type.tc128)
        check(f"SEAL takes N = 4096, both primes, t = 2^{b} at 128 bits", context.parameters_set())
    context = seal.SEALContext(parameters(primes + [MORE], t), True, seal.sec_level_type.tc128)
    check(f"SEAL refuses a third prime: {context.parameter_error_name()}", not context.parameters_set())

    s = Seal(primes, t, data["secret"])
    check("the public key decrypts to 0", s.decrypted(s.ciphertext(data["key_b"], data["key_a"])) == [0] * N)
    query = [s.ciphertext(part("query_c0", b), part("query_c1", b)) for b in range(2)]
    one = [1] + [0] * (N - 1)
    for b in range(2):
        want = times_monomial(one, j, t) if b == block else [0] * N
        check(f"block {b} of the query decrypts to {'X^-j' if b == block else '0'}", s.decrypted(query[b]) == want)

    tables = [data["table"][N * b : N * (b + 1)] for b in range(2)]
    plain = [seal.Plaintext(" + ".join(f"{v:X}x^{i}" if i else f"{v:X}" for i, v in reversed(list(enumerate(x))) if v)) for x in tables]
    products = [s.evaluator.multiply_plain(query[b], plain[b]) for b in range(2)]
    total = s.evaluator.add(products[0], products[1])
    check("SEAL's products, added, are the library's sum: 16384 words", s.words(total) == data["sum_c0"] + data["sum_c1"])

    want = times_monomial(tables[block], j, t)
    check("the constant coefficient is the entry", want[0] == data["table"][index])
    answer = s.ciphertext(data["answer_c0"], data["answer_c1"])
    check("the sum decrypts to X^-j T", s.decrypted(total) == want)
    check("the sum with an encryption of zero decrypts to X^-j T", s.decrypted(answer) == want)
    # Bits of log2(q / t) that noise leaves, less one: at least what the worst case leaves of them.
    worst = 21 * N * 2 * t // 2 + 21 * (2 * N + 1) + t // 4
    budget, least = s.decryptor.invariant_noise_budget(answer), math.log2(primes[0] * primes[1] / (2 * t * worst))
    check(f"noise budget {budget} bits, at least {least:.1f} in the worst case", budget >= math.floor(least))


main(sys.argv[1])
