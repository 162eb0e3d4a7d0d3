@echo off
rem Opens Style Studio in the browser, and sets it up first where that is not done.
rem What is given is passed on: start.bat --port 7861
cd /d "%~dp0"
if not exist ".venv\.installed" (
    powershell -NoProfile -ExecutionPolicy Bypass -File install.ps1
    if errorlevel 1 (
        pause
        exit /b 1
    )
)
".venv\Scripts\python.exe" -m studio --browser %*
if errorlevel 1 pause
