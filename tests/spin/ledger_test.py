"""Checks the model of the ledger (ledger.pml) with SPIN: it holds in its whole state space, and with any rule taken away it does not."""
import concurrent.futures
import pathlib
import re
import subprocess
import sys
import tempfile

MODEL = pathlib.Path(__file__).with_name('ledger.pml')
# What is promised, as the model names it.
PROMISES = {'single use': [], 'single use, though the provider lies': ['LIAR'], 'undisturbed': ['UNDISTURBED', 'HOLDS']}
# One rule the less breaks which of them. (Of some also the first, after many more states.)
RULES = {
    'NO_COMPARE_REACH': 'single use, though the provider lies', 'NO_COMPARE_END': 'single use, though the provider lies',
    'NO_COMPARE_PUT': 'single use, though the provider lies', 'USE_AFTER_LOSS': 'single use, though the provider lies',
    'USE_BEFORE_BURN': 'single use, though the provider lies', 'TAKE_BACK_USED': 'single use, though the provider lies',
    'PROVIDERS_MARK_ALONE': 'single use, though the provider lies', 'OWN_MARK_ALONE': 'single use', 'PROVIDER_USES_BEFORE_BURN': 'single use',
    'NO_FRESH_SEED': 'single use', 'MADE_ANEW': 'single use',
    'HOLDS': 'undisturbed', 'NO_SNAPSHOT': 'undisturbed', 'NO_SAME': 'undisturbed',
}

def search(defines, whole=True):
    """Whether no assertion fails in any state; how many there are. whole: all of them are expected to be walked, which is worth the compiler's time."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ['-D' + d for d in defines]

        def run(*command):
            return subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600).stdout

        said = run('spin', *flags, '-a', str(MODEL))
        if 'rror' in said or not pathlib.Path(folder, 'pan.c').exists():
            sys.exit(f'{defines}: spin says {said}')
        said = run('cc', '-O2' if whole else '-O0', '-w', '-DSAFETY', '-DNOCLAIM', '-DMEMLIM=3000', '-o', 'pan', 'pan.c')
        if said:
            sys.exit(f'{defines}: cc says {said}')
        said = run('./pan', '-m2000000', '-E', '-w22')
    found, states = re.search(r'errors: (\d+)', said), re.search(r'(\d+) states, stored', said)
    if not found or not states:
        sys.exit(f'{defines}: pan says {said}')
    if int(found[1]):
        if 'assertion violated' not in said:
            sys.exit(f'{defines}: pan found something else than an assertion: {said}')
        return False, int(states[1])
    # One that was cut short proves nothing.
    if re.search('Search not completed|max search depth too small|reached -DMEMLIM|out of memory|truncated', said):
        sys.exit(f'{defines}: the search was not completed: {said}')
    return True, int(states[1])


def main():
    if sys.argv[1:]:  # defines by hand: what does SPIN find?
        return print(search(sys.argv[1:]))
    tasks = [(promise, defines, True) for promise, defines in PROMISES.items()]
    for rule, promise in RULES.items():
        without = [d for d in PROMISES[promise] if d != rule] if rule in PROMISES[promise] else PROMISES[promise] + [rule]
        tasks.append((f'{promise}, without the rule {rule}', without, False))
    wrong = 0
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for (what, _, expected), (holds, states) in zip(tasks, pool.map(lambda task: search(task[1], task[2]), tasks)):
            right = holds == expected
            wrong += not right
            print(f'{"" if right else "WRONG: "}{what}: {"holds in all" if holds else "broken within"} {states} states', flush=True)
    sys.exit(wrong != 0)


main()
