const lit = () => window.studio && window.studio.lighten && window.studio.lighten(); watch('value', lit); lit();
