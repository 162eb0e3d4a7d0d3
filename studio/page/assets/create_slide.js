// Moving asks for a new image a moment later, once: the server gives up the one before. What was drawn already comes at once.
let timer = 0;
element.addEventListener('input', event => {
    if (!event.target.matches('[data-strength]')) return;
    const strength = Number(event.target.value);
    event.target.parentElement.querySelector('output').textContent = strength.toFixed(1);
    clearTimeout(timer);
    timer = setTimeout(() => trigger('input', {strength}), 180);
});
