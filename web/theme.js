// Before the first paint, so that saved choices do not flash: light, dark, or what the system prefers; which columns are closed, and how wide they are.
(() => {
  const key = 'permllm.theme';
  const system = matchMedia('(prefers-color-scheme: dark)');
  const root = document.documentElement;
  let saved = null, layout = null;
  try {
    saved = localStorage.getItem(key);
    layout = JSON.parse(localStorage.getItem('permllm.layout'));
  } catch { /* storage is switched off */ }
  if (saved === 'light' || saved === 'dark') root.dataset.theme = saved;
  for (const side of ['list', 'panel']) {
    const {closed, width} = layout?.[side] ?? {};
    if (closed === true) root.setAttribute(`data-${side}-closed`, '');
    if (Number.isFinite(width)) root.style.setProperty(`--${side}-width`, `${width}rem`);
  }

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
