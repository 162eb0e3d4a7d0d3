// A caption that is typed stays in the browser until the server has said that it is on disk: so none is lost with the server.
const key = 'style-studio-unsaved ' + element.querySelector('[data-workspace]').dataset.workspace;
const kept = () => { try { return JSON.parse(localStorage.getItem(key)) || {}; } catch { return {}; } };
const keep = all => Object.keys(all).length ? localStorage.setItem(key, JSON.stringify(all)) : localStorage.removeItem(key);
const hidden = id => { const field = document.querySelector(id + ' textarea, ' + id + ' input'); return field ? field.value : ''; };
document.addEventListener('input', event => {
    const area = event.target.closest('#caption textarea'), of = area && hidden('#picture-of'), all = kept();
    if (!of) return;
    const earlier = all[of] || {before: hidden('#caption-before'), mine: []};  // mine: what was typed on the way, and may be on disk by now
    all[of] = {text: area.value, before: earlier.before, mine: [...earlier.mine, area.value].slice(-200)};
    keep(all);
});
watch('value', () => {
    const saved = element.querySelector('[data-of]'), all = kept();
    if (!saved || !all[saved.dataset.of] || (saved.dataset.text !== undefined && all[saved.dataset.of].text !== saved.dataset.text)) return;
    delete all[saved.dataset.of];
    keep(all);
});
const send = () => { for (const [of, draft] of Object.entries(kept())) trigger('submit', {of, ...draft}); };
window.addEventListener('studio-back', send);
setTimeout(send, 1500);  // of a page that was closed meanwhile
