const within = share => Math.min(1, Math.max(0, share));
const put = (crop, across, down) => {
    crop.dataset.across = across; crop.dataset.down = down;
    crop.style.left = across * (100 - parseFloat(crop.style.width)) + '%';
    crop.style.top = down * (100 - parseFloat(crop.style.height)) + '%';
    crop.setAttribute('aria-valuenow', Math.round(100 * (crop.dataset.axis == 'across' ? across : down)));
};
const tell = crop => trigger('input', {of: crop.dataset.of, across: +crop.dataset.across, down: +crop.dataset.down});
let held = null;
element.addEventListener('pointerdown', event => {
    const crop = event.target.closest('.crop.movable');
    if (!crop) return;
    const room = crop.parentElement.getBoundingClientRect(), size = crop.getBoundingClientRect();
    held = {crop, x: event.clientX, y: event.clientY, across: +crop.dataset.across, down: +crop.dataset.down,
        wide: room.width - size.width, high: room.height - size.height};
    crop.setPointerCapture(event.pointerId);
    crop.focus();
    event.preventDefault();
});
element.addEventListener('pointermove', event => {
    if (!held) return;
    const across = held.wide > 1 ? within(held.across + (event.clientX - held.x) / held.wide) : held.across;
    const down = held.high > 1 ? within(held.down + (event.clientY - held.y) / held.high) : held.down;
    put(held.crop, across, down);
});
const drop = () => { if (held) { const crop = held.crop; held = null; tell(crop); } };
element.addEventListener('pointerup', drop);
element.addEventListener('pointercancel', drop);
element.addEventListener('keydown', event => {
    const crop = event.target.closest('.crop.movable');
    const by = {ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1}[event.key];
    if (!crop || !by) return;
    event.preventDefault();
    const axis = crop.dataset.axis, moved = within(+crop.dataset[axis] + by * 0.05);
    put(crop, axis == 'across' ? moved : +crop.dataset.across, axis == 'down' ? moved : +crop.dataset.down);
    tell(crop);
});
watch('value', () => window.studio && window.studio.mark());
