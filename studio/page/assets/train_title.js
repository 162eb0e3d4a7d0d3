const entitle = () => window.studio && window.studio.entitle && window.studio.entitle(); watch('value', entitle); entitle();
