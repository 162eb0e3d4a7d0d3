element.addEventListener('input', event => {
    const slider = event.target.closest('.hero input[type=range]');
    if (slider) slider.closest('.hero').style.setProperty('--cut', slider.value + '%');
});
