const IDLE = 5000, BEHIND = 15000;  // ms between two looks: when nobody touches the page; when nobody sees it
const UNTOUCHED = 60000;  // ms after which nobody touches it
let timer = 0, last = 0, touched = Date.now(), asked = '', speaks = false, letGo = () => {};
const speaker = of => {
    if (asked === of) return speaks;
    letGo(); asked = of; speaks = false; letGo = () => {};
    if (of && navigator.locks) navigator.locks.request('style-studio ' + of, () => asked !== of ? null : new Promise(done => {
        speaks = true; letGo = done; plan();
    }));
    return speaks;
};
const pace = () => {
    const mark = element.querySelector('[data-every]');
    if (!mark) return Infinity;  // who spoke last stays the speaker: another one would only say the same again
    const mine = speaker(mark.dataset.speak);
    if (document.hidden) return mine ? BEHIND : Infinity;
    if (!element.offsetParent) return BEHIND;
    const shown = document.querySelector('#status');
    if (element.id === 'follows-training' && !(shown && shown.offsetParent)) return IDLE;  // a chip shows it, in every place
    return document.hasFocus() && Date.now() - touched < UNTOUCHED ? 1000 * mark.dataset.every : IDLE;
};
const plan = () => {
    clearTimeout(timer);
    let wait = pace();
    element.dataset.rests = document.hidden && wait === Infinity;
    if (window.studio && window.studio.entitle) window.studio.entitle();
    if (wait === Infinity) return;
    if (Date.now() - last >= wait) { last = Date.now(); trigger('tick'); }
    timer = setTimeout(plan, last + wait - Date.now());
};
const touch = () => { const idle = Date.now() - touched >= UNTOUCHED; touched = Date.now(); if (idle) plan(); };
for (const kind of ['pointerdown', 'pointermove', 'keydown', 'wheel']) document.addEventListener(kind, touch, {passive: true});
for (const kind of ['focus', 'blur']) window.addEventListener(kind, plan);
document.addEventListener('visibilitychange', plan);
const begin = () => { last = Date.now(); plan(); };
watch('value', begin);
begin();  // what stood in it before its tab was opened
