<#
.SYNOPSIS
Sets up Style Studio in this folder.
.DESCRIPTION
Needs no administrator and no compiler. Everything lies in this folder, in .venv and .uv. After a
failed step run it again: what is there is used.
.PARAMETER Wheels
Take every package from a folder of wheels; nothing is fetched.
.PARAMETER Torch
auto (what this machine's card needs), cpu, cu130, xpu, ...
.PARAMETER Update
Fetch the newest version first (in a git checkout), then the same.
.PARAMETER Uninstall
Remove what this script made; workspace, runs and styles stay.
#>
param(
    [string]$Wheels = '',
    [string]$Torch = 'auto',
    [switch]$Update,
    [switch]$Uninstall
)

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'
$here = Split-Path -Parent $MyInvocation.MyCommand.Path
Set-Location -LiteralPath $here
$log = Join-Path $here '.install.log'
$leastFree = 3GB # torch for CPUs, the other packages, and room to unpack them

function Stop-Install([string]$What, [string]$Advice) {
    Write-Host ''
    Write-Host "Not installed: $What"
    Write-Host $Advice
    exit 1
}

# Runs a program quietly; what it said is in the log
function Invoke-Step([string]$What, [string]$Advice, [string]$Program, [string[]]$Arguments) {
    Write-Host "$What ..."
    "`n== ${What}: $Program $Arguments" | Add-Content -LiteralPath $log -Encoding UTF8
    # A native program that writes to stderr is no error in PowerShell 5 only with Continue
    $ErrorActionPreference = 'Continue'
    & $Program @Arguments 2>&1 | ForEach-Object { "$_" } | Add-Content -LiteralPath $log -Encoding UTF8
    if ($LASTEXITCODE -ne 0) {
        Get-Content -LiteralPath $log -Tail 15 | Write-Host
        Stop-Install "$What failed." "$Advice All of its output is in $log. Then run install.ps1 again."
    }
    $ErrorActionPreference = 'Stop'
}

if ($Uninstall) {
    foreach ($made in '.venv', '.uv', '.install.log', 'style_studio.egg-info') {
        if (Test-Path -LiteralPath $made) { Remove-Item -LiteralPath $made -Recurse -Force }
    }
    Write-Host 'Removed .venv and .uv. Your workspace, runs and styles are still here; delete this folder'
    Write-Host 'to remove everything. uv keeps what it fetched for other programs: uv cache clean.'
    exit 0
}
if ($Wheels) {
    if (-not (Test-Path -LiteralPath $Wheels -PathType Container)) {
        Stop-Install "$Wheels is no folder." 'Give -Wheels the folder that holds the .whl files.'
    }
    $Wheels = (Resolve-Path -LiteralPath $Wheels).ProviderPath
}
if (-not ((Test-Path 'pyproject.toml') -and (Test-Path 'constraints.txt'))) {
    Stop-Install 'pyproject.toml or constraints.txt is missing beside install.ps1.' `
        'Unpack the whole download, and run the install.ps1 inside it.'
}
if (-not [Environment]::Is64BitOperatingSystem) {
    Stop-Install 'there is no torch for 32-bit Windows.' 'A 64-bit Windows is needed.'
}
if ($here.Length -gt 140) {
    Stop-Install "the path of this folder is $($here.Length) characters long; packages have paths that Windows then refuses." `
        'Move the folder to a shorter path, for instance C:\style-studio.'
}
$drive = [IO.Path]::GetPathRoot($here)
if ($drive -match '^[A-Za-z]:' -and -not (Test-Path '.venv\.installed')) {
    $free = ([IO.DriveInfo]$drive).AvailableFreeSpace
    if ($free -lt $leastFree) {
        $freeMB = [int]($free / 1048576)
        Stop-Install "only $freeMB MB are free on $drive" `
            'Free 3000 MB for a CPU, or about 12000 MB for a graphics card.'
    }
}
Set-Content -LiteralPath $log -Value '' -Encoding UTF8
if ($Update) {
    if (-not (Get-Command git -ErrorAction SilentlyContinue) -or -not (Test-Path '.git')) {
        Stop-Install 'this folder is no git checkout, so there is nothing to update from.' `
            'Download the newest version, unpack it over this folder, and run install.ps1'
    }
    Invoke-Step 'Fetching the newest version' `
        'Look whether files of the program were changed (git status).' 'git' @('pull', '--ff-only')
}

# uv: one that is there, one from the wheels by pip, or its own installer
$uv = $null
$known = Get-Command uv -ErrorAction SilentlyContinue
foreach ($candidate in @($(if ($known) { $known.Source }), "$here\.uv\uv.exe", "$here\.uv\Scripts\uv.exe")) {
    if ($candidate -and (Test-Path -LiteralPath $candidate)) { $uv = $candidate; break }
}
if (-not $uv -and $Wheels) {
    $python = Get-Command @('py', 'python') -ErrorAction SilentlyContinue | Select-Object -First 1
    if (-not $python) {
        Stop-Install 'uv is not installed, and no Python that could unpack it.' `
            'Install Python 3.11 or newer, or uv: https://docs.astral.sh/uv/'
    }
    Invoke-Step 'Unpacking uv' 'Python with venv is needed.' $python.Source @('-m', 'venv', '.uv')
    Invoke-Step 'Installing uv' 'Put a uv wheel into the folder of wheels.' '.uv\Scripts\python.exe' `
        @('-m', 'pip', 'install', '--quiet', '--no-index', '--find-links', $Wheels, 'uv')
    $uv = "$here\.uv\Scripts\uv.exe"
}
if (-not $uv) {
    $env:UV_INSTALL_DIR = "$here\.uv"
    $env:UV_NO_MODIFY_PATH = '1'
    Invoke-Step 'Fetching uv, which installs the rest' 'Look at the network, or at the proxy (HTTPS_PROXY).' `
        'powershell' @('-NoProfile', '-ExecutionPolicy', 'Bypass', '-Command', 'irm https://astral.sh/uv/install.ps1 | iex')
    $uv = "$here\.uv\uv.exe"
}

$venvPython = '.venv\Scripts\python.exe'
if (-not (Test-Path $venvPython)) {
    if (Test-Path '.venv') { Remove-Item -LiteralPath '.venv' -Recurse -Force }
    Invoke-Step 'Making the environment .venv' `
        'Python 3.11 to 3.14 is needed; uv fetches one if the network lets it.' `
        $uv @('venv', '--quiet', '--python', '>=3.11,<3.15', '.venv')
}
Invoke-Step 'Looking at its Python' 'Delete the folder .venv, and install a 64-bit Python 3.11 to 3.14.' `
    $venvPython @('-c', 'import training')
if (Test-Path '.venv\.installed') { Remove-Item -LiteralPath '.venv\.installed' }
$from = if ($Wheels) { @('--offline', '--no-index', '--find-links', $Wheels) } else { @('--torch-backend', $Torch) }
Invoke-Step 'Installing Style Studio (some hundred MB for a CPU, some GB for a graphics card)' `
    'Look at the network, the proxy (HTTPS_PROXY) and the free space.' `
    $uv (@('pip', 'install', '--python', $venvPython, '--quiet') + $from + @('-c', 'constraints.txt', '-e', '.'))
Invoke-Step 'Trying it' 'A package is missing or does not fit this machine.' `
    $venvPython @('-m', 'studio', '--help')
Set-Content -LiteralPath '.venv\.installed' -Value '' -Encoding UTF8
Write-Host ''
Write-Host 'Installed. start.bat opens the page; .venv\Scripts\style-studio.exe doctor says what works here.'
