() => [...document.querySelectorAll('[role=tab]')].find(tab => tab.textContent.includes('Compare')).click()
