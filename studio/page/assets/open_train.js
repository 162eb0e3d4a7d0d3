() => [...document.querySelectorAll('[role=tab]')].find(tab => tab.textContent.includes('Train')).click()
