() => [...document.querySelectorAll('[role=tab]')].find(tab => tab.textContent.includes('Create')).click()
