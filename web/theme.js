// Before the first paint, so that a saved choice does not flash: light, dark, or what the system prefers.
(() => {
  const key = 'permllm.theme';
  const system = matchMedia('(prefers-color-scheme: dark)');
  const root = document.documentElement;
  let saved = null;
  try { saved = localStorage.getItem(key); } catch { /* storage is switched off */ }
  if (saved === 'light' || saved === 'dark') root.dataset.theme = saved;

  globalThis.toggleTheme = () => {
    const preferred = system.matches ? 'dark' : 'light';
    const wanted = (root.dataset.theme ?? preferred) === 'dark' ? 'light' : 'dark';
    if (wanted === preferred) delete root.dataset.theme; else root.dataset.theme = wanted;
    try {
      if (wanted === preferred) localStorage.removeItem(key); else localStorage.setItem(key, wanted);
    } catch { /* the choice lasts as long as the page */ }
    return wanted;
  };
})();
