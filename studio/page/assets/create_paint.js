// A brush on one's own picture: what is painted is white in a mask, which is sent when the brush is lifted.
const within = (value, most) => Math.min(most, Math.max(0, value));
const canvas = () => element.querySelector('canvas');
let at = null;
const send = () => {
    const own = element.querySelector('.own'), mask = document.createElement('canvas'), shown = canvas();
    const scale = Math.min(1, 512 / Math.max(own.dataset.width, own.dataset.height));
    mask.width = Math.max(1, Math.round(own.dataset.width * scale));
    mask.height = Math.max(1, Math.round(own.dataset.height * scale));
    const pen = mask.getContext('2d');
    pen.drawImage(shown, 0, 0, mask.width, mask.height);
    const pixels = pen.getImageData(0, 0, mask.width, mask.height);
    for (let i = 0; i < pixels.data.length; i += 4) {
        const value = pixels.data[i + 3] > 40 ? 255 : 0;
        pixels.data.set([value, value, value, 255], i);
    }
    pen.putImageData(pixels, 0, 0);
    element.querySelector('[data-clear]').hidden = false;
    trigger('submit', {mask: mask.toDataURL('image/png')});
};
const spot = event => {
    const shown = canvas(), room = shown.getBoundingClientRect();
    return [within((event.clientX - room.left) / room.width, 1) * shown.width, within((event.clientY - room.top) / room.height, 1) * shown.height];
};
const stroke = to => {
    const pen = canvas().getContext('2d'), brush = Number(element.querySelector('[data-brush]').value);
    pen.strokeStyle = '#3554d1';
    pen.lineWidth = brush / 100 * canvas().width;
    pen.lineCap = pen.lineJoin = 'round';
    pen.beginPath();
    pen.moveTo(...at);
    pen.lineTo(to[0] + 0.01, to[1]);
    pen.stroke();
    at = to;
};
element.addEventListener('pointerdown', event => {
    if (event.target !== canvas()) return;
    canvas().setPointerCapture(event.pointerId);
    at = spot(event);
    stroke(at);
    event.preventDefault();
});
element.addEventListener('pointermove', event => { if (at) stroke(spot(event)); });
for (const kind of ['pointerup', 'pointercancel']) element.addEventListener(kind, () => { if (at) { at = null; send(); } });
element.addEventListener('click', event => {
    const paint = event.target.closest('[data-paint]'), clear = event.target.closest('[data-clear]'), shown = canvas();
    if (paint) {
        const on = shown.hidden;
        shown.hidden = !on;
        if (on && !shown.dataset.ready) { shown.width = 512; shown.height = Math.round(512 * shown.clientHeight / shown.clientWidth) || 512; shown.dataset.ready = 'yes'; }
        paint.setAttribute('aria-pressed', on);
        element.querySelector('.density').hidden = !on;
    } else if (clear) {
        shown.getContext('2d').clearRect(0, 0, shown.width, shown.height);
        clear.hidden = true;
        trigger('submit', {mask: ''});
    }
});
